"""Features and units for other people's code: what the files hold, read with safetensors alone, and
going on.
"""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from torch import Tensor

import builders
from fakes import Moments
from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.feature_source import FeatureSource
from mt4ssl_bench.clustering.make_labels import make_labels
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import BenchError, CheckpointError, ConfigError, CorpusError
from mt4ssl_bench.features import extract as job
from mt4ssl_bench.features import forward_pass
from mt4ssl_bench.features.extract import extract
from mt4ssl_bench.features.forward_pass import Pass

TOY = f"random:{builders.TOY}"


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return [cut for name in corpus.info.splits for cut in corpus.cuts(name)]


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return load_upstream(TOY)


@pytest.fixture(scope="module")
def expected(upstream: Upstream, cuts: list[Any]) -> dict[str, np.ndarray]:
    return {name: row for cut in cuts for batch in Pass(upstream)([cut]) for name, row in batch}


@pytest.fixture(scope="module")
def labels(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = OfflineConfig(clusters=6, features=TOY, layer=-1, normalize="utterance")
    folder = tmp_path_factory.mktemp("labels") / "toy"
    return make_labels([corpus], ("train", "valid"), config, out=folder, seed=0).folder


def read(index: Path) -> dict[str, np.ndarray]:
    """As a stranger would, by the README."""
    found = {}
    for name, file in json.loads(index.read_text(encoding="utf-8"))["files"].items():
        with safe_open(index.parent / file, "np") as shard:
            found[name] = shard.get_tensor(name)
    return found


def test_all_layers_of_a_corpus_stand_under_its_ids(
    corpus: Corpus, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    index = extract(TOY, tmp_path / "out", corpus=corpus.root)
    found = read(index)
    assert set(found) == set(expected)
    for name, row in expected.items():
        assert found[name].dtype == np.float32
        assert np.allclose(found[name], row, rtol=0, atol=1e-4 * np.abs(row).max())
    about = json.loads(index.read_text(encoding="utf-8"))
    assert (about["layer"], about["dtype"], about["stride"], about["sample_rate"]) == (
        "all",
        "fp32",
        320,
        16_000,
    )
    assert (about["corpus"], about["digest"]) == ("tones", corpus.info.digest)


def test_one_layer_of_a_folder_that_was_never_prepared(
    manifest: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    found = read(
        extract(TOY, tmp_path / "out", folder=manifest.parent / "audio", layer=-1, dtype="fp16")
    )
    assert set(found) == set(expected)
    for name, row in expected.items():
        assert found[name].dtype == np.float16
        assert np.allclose(found[name], row[2], rtol=2e-3, atol=2e-3)


def test_an_interrupted_extraction_goes_on_and_computes_nothing_twice(
    corpus: Corpus,
    cuts: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mt4ssl_bench.features.forward_pass.BATCH_SECONDS", 6.0)
    monkeypatch.setattr(job, "SHARD_BYTES", 1)
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir()
    whole.mkdir()
    first, second = Moments(fail_at=2), Moments()
    with pytest.raises(KeyboardInterrupt):
        job.extract_features(first, corpus, cuts, out)
    kept = len(json.loads((out / "index.json").read_text(encoding="utf-8"))["files"])
    assert 0 < kept < len(cuts)
    found = read(job.extract_features(second, corpus, cuts, out))
    assert second.utterances == len(cuts) - kept
    for name, row in read(job.extract_features(Moments(), corpus, cuts, whole)).items():
        assert np.array_equal(found[name], row)


def test_another_extraction_is_refused_and_a_missing_file_named(
    corpus: Corpus, tmp_path: Path
) -> None:
    extract(TOY, tmp_path, corpus=corpus.root, splits=["test"], layer=1)
    with pytest.raises(CheckpointError, match=r"another layer \(1, not 2\); choose another --out"):
        extract(TOY, tmp_path, corpus=corpus.root, layer=2)
    with pytest.raises(CheckpointError, match=r"another dtype \(fp32, not fp16\)"):
        extract(TOY, tmp_path, corpus=corpus.root, splits=["test"], layer=1, dtype="fp16")
    with pytest.raises(
        CheckpointError, match=r"another selection \(\d+ utterances, \w+, not \d+ utterances, \w+\)"
    ):
        extract(TOY, tmp_path, corpus=corpus.root, layer=1)
    (file,) = tmp_path.glob("features-*.safetensors")
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name} is gone"):
        extract(TOY, tmp_path, corpus=corpus.root, splits=["test"], layer=1)


@pytest.mark.parametrize("units", [False, True])
def test_files_cut_short_are_left_out_said_and_tried_again(
    manifest: Path, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, units: bool
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("s0-0", "s0-1"):
        (folder / f"{name}.flac").write_bytes(
            (manifest.parent / "audio" / f"{name}.flac").read_bytes()
        )
    whole = (folder / "s0-1.flac").read_bytes()
    (folder / "s0-1.flac").write_bytes(whole[: len(whole) // 2])

    def ids() -> list[str]:
        made = extract(TOY, tmp_path / "out", folder=folder, units=labels if units else None)
        if units:
            return [line.split()[0] for line in made.read_text(encoding="utf-8").splitlines()]
        return sorted(read(made))

    assert ids() == ["s0-0"]
    assert "left out, 1 so far: utterance 's0-1'" in caplog.text
    caplog.clear()
    assert ids() == ["s0-0"]
    assert "left out, 1 so far: utterance 's0-1'" in caplog.text


def test_units_are_the_labels_that_k_means_gave_and_collapse_to_runs(
    corpus: Corpus, cuts: list[Any], labels: Path, tmp_path: Path
) -> None:
    from mt4ssl_bench.data.label_store import LabelStore

    lines = (
        extract(TOY, tmp_path / "a", corpus=corpus.root, units=labels)
        .read_text(encoding="utf-8")
        .splitlines()
    )
    assert [line.split()[0] for line in lines] == [cut.id for cut in cuts]
    units = {line.split()[0]: [int(unit) for unit in line.split()[1:]] for line in lines}
    store = LabelStore(labels)
    for cut in [*corpus.cuts("train"), *corpus.cuts("valid")]:
        same = np.array(units[cut.id]) == store.get(cut.id, len(units[cut.id]))
        assert same.mean() > 0.98  # a frame between two centres may fall either way with its batch
    collapsed = extract(TOY, tmp_path / "b", corpus=corpus.root, units=labels, collapse=True)
    for line in collapsed.read_text(encoding="utf-8").splitlines():
        name, *runs = line.split()
        assert [int(unit) for unit in runs] == [unit for unit, _ in itertools.groupby(units[name])]


def test_units_go_on_behind_the_last_whole_line(
    corpus: Corpus, cuts: list[Any], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(TOY, tmp_path, corpus=corpus.root, units=labels).read_text(encoding="utf-8")
    (tmp_path / "units.txt").unlink()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "units.partial").write_text("".join(lines[5:12]) + lines[12][:9], encoding="utf-8")
    heard = []
    plain = Pass._forward
    monkeypatch.setattr(
        Pass, "_forward", lambda self, ids, waves: heard.extend(ids) or plain(self, ids, waves)
    )
    monkeypatch.setattr("mt4ssl_bench.features.forward_pass.BATCH_SECONDS", 2.0)
    again = extract(TOY, tmp_path, corpus=corpus.root, units=labels).read_text(encoding="utf-8")
    assert len(heard) == len(cuts) - 7
    assert again == whole
    assert not (tmp_path / "units.partial").exists()


def test_units_of_mfcc_codebooks(corpus: Corpus, tmp_path: Path) -> None:
    config = OfflineConfig(clusters=6)
    store = make_labels([corpus], ("train", "valid"), config, out=tmp_path / "labels", seed=0)
    written = extract(
        "mfcc", tmp_path / "out", corpus=corpus.root, splits=["train"], units=store.folder
    )
    for line in written.read_text(encoding="utf-8").splitlines():
        name, *units = line.split()
        assert [int(unit) for unit in units] == store.get(name, len(units)).tolist()


def test_a_codebook_of_another_model_or_without_centres_is_refused(
    corpus: Corpus, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="its centres are of features of .*, not of 'fbank'"):
        extract("fbank", tmp_path / "out", corpus=corpus.root, units=labels)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("labels.json", "labels.npy", "offsets.npy", "ids.txt"):
        (bare / name).write_bytes((labels / name).read_bytes())
    with pytest.raises(
        CheckpointError, match="no centres .*run 'mt4ssl-bench kmeans' into another --out"
    ):
        extract(TOY, tmp_path / "out", corpus=corpus.root, units=bare)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "either --corpus or --folder"),
        ({"folder": "x", "splits": ["train"]}, ConfigError, "a folder has none"),
        ({"folder": "nowhere"}, CorpusError, "no such folder"),
        ({"corpus": "tones", "splits": ["trian"]}, CorpusError, "did you mean train"),
        ({"corpus": "tones", "layer": 3}, ConfigError, r"has 0 \(the encoder's input\) to 2"),
        ({"corpus": "tones", "collapse": True}, ConfigError, "requires --units"),
        (
            {"corpus": "tones", "units": "x", "layer": 1},
            ConfigError,
            "cannot be combined with --units",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: dict[str, Any], error: type[Exception], message: str, corpus: Corpus, tmp_path: Path
) -> None:
    if "corpus" in options:
        options = options | {"corpus": corpus.root}
    with pytest.raises(error, match=message):
        extract(TOY, tmp_path / "out", **options)


def test_files_too_short_for_any_model_are_left_out_and_named(
    manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "good.flac").write_bytes((manifest.parent / "audio" / "s0-0.flac").read_bytes())
    soundfile.write(folder / "click.wav", np.zeros(300), 16_000)
    assert set(read(extract(TOY, tmp_path / "out", folder=folder))) == {"good"}
    assert "left out: 1 utterances under 0.05 s, the first is 'click'" in caplog.text


def test_ids_with_white_space_have_no_place_in_a_file_of_units(
    corpus: Corpus, cuts: list[Any], upstream: Upstream, labels: Path, tmp_path: Path
) -> None:
    from mt4ssl_bench.features.units import Codebook

    odd = cuts[0].with_id("two words")
    with pytest.raises(CorpusError, match="utterance id 'two words'"):
        job.extract_units(upstream, corpus, [odd], tmp_path, Codebook(labels))


def test_processes_share_the_files_of_an_extraction(
    corpus: Corpus, prefork: builders.Prefork, tmp_path: Path
) -> None:
    argv = ["extract", TOY, "--corpus", str(corpus.root), "--device", "cpu", "--out"]
    prefork.run(*argv, str(tmp_path / "one"))
    started = prefork.world(2, *argv, str(tmp_path / "two"))
    assert [prefork.wait(pid) for pid, _ in started] == [0, 0], [o.read_text() for _, o in started]
    one, two = (read(tmp_path / name / "index.json") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "two").glob("[!.]*.lock"))


SLOW = """
import sys
from pathlib import Path
from fakes import Moments
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.features import extract, forward_pass

forward_pass.BATCH_SECONDS, extract.SHARD_BYTES = 6.0, 1
corpus = Corpus.open(sys.argv[1])
cuts = [cut for name in corpus.info.splits for cut in corpus.cuts(name)]
extract.extract_features(Moments(pause=0.2), corpus, cuts, Path(sys.argv[2]), layer=0)
"""


@pytest.fixture(scope="module")
def killed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an extraction of layer 0 leaves that is killed, and could not end its index."""
    out = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, corpus.root, out], env=builders.environment()
    )
    until = time.monotonic() + 60
    while len(list(out.glob("features-*.safetensors"))) < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((out / "index.json").read_text(encoding="utf-8"))["files"] == {}
    return out


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        (Moments(), {"layer": 1}, "layer"),
        (Moments(), {"layer": 0, "dtype": "fp16"}, "dtype"),
        (Moments("another"), {"layer": 0}, "fingerprint"),
    ],
)
def test_another_extraction_never_takes_the_files_of_a_killed_one(
    corpus: Corpus,
    cuts: list[Any],
    killed: Path,
    tmp_path: Path,
    model: Moments,
    options: dict[str, Any],
    named: str,
) -> None:
    out = Path(shutil.copytree(killed, tmp_path / "out"))
    with pytest.raises(CheckpointError, match=f"of an extraction with another {named}"):
        job.extract_features(model, corpus, cuts, out, **options)
    (out / "index.json").unlink()  # earlier revisions wrote it at the end
    if named != "fingerprint":
        found = read(job.extract_features(model, corpus, cuts, out, **options))
        row = (options["layer"] + 1) * by_hand(cuts[0])
        assert np.allclose(found[cuts[0].id], row, rtol=1e-3, atol=1e-6)
        assert set(found) == {cut.id for cut in cuts}


def by_hand(cut: Any) -> np.ndarray:
    """Return the first layer of Moments, (T, D)."""
    samples = audio.read(cut)
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    return np.stack([frames.mean(1), frames.max(1), frames.min(1)], axis=1)


@pytest.mark.parametrize("seconds", [6.0, 2.5, 80.0])
def test_a_killed_extraction_goes_on_also_with_the_batches_of_another_device(
    corpus: Corpus,
    cuts: list[Any],
    killed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    out = Path(shutil.copytree(killed, tmp_path / "out"))
    monkeypatch.setattr("mt4ssl_bench.features.forward_pass.BATCH_SECONDS", seconds)
    monkeypatch.setattr(job, "SHARD_BYTES", 1)
    model, files = Moments(), {path.name for path in out.glob("features-*.safetensors")}
    index = job.extract_features(model, corpus, cuts, out, layer=0)
    assert {path.name for path in out.glob("features-*.safetensors")} > files
    listed = json.loads(index.read_text(encoding="utf-8"))["files"]
    assert files < set(listed.values())
    assert model.utterances < len(cuts) or seconds == 80.0, "a batch is run as a whole"
    found = read(index)
    for cut in cuts:
        assert np.allclose(found[cut.id], by_hand(cut), rtol=0, atol=1e-6)


def test_a_second_extraction_into_one_folder_is_refused_while_the_first_one_runs(
    corpus: Corpus, cuts: list[Any], tmp_path: Path
) -> None:
    class First(Moments):
        def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
            with pytest.raises(CheckpointError, match="with another layer"):
                job.extract_features(Moments(), corpus, cuts, tmp_path, layer=1)
            return super().extract(waveforms, lengths)

    found = read(job.extract_features(First(), corpus, cuts, tmp_path, layer=0))
    assert np.allclose(found[cuts[3].id], by_hand(cuts[3]), rtol=0, atol=1e-6)


def test_a_disk_that_is_too_small_leaves_the_folder_to_others(
    corpus: Corpus, cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000})
    monkeypatch.setattr(job.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match="one --layer, --dtype fp16 or --units take less"):
        job.extract_features(Moments(), corpus, cuts, tmp_path)
    monkeypatch.undo()
    job.extract_features(Moments(), corpus, cuts, tmp_path, layer=0)


def test_units_by_another_codebook_do_not_go_on_with_the_first_ones(
    corpus: Corpus, cuts: list[Any], labels: Path, tmp_path: Path
) -> None:
    config = OfflineConfig(clusters=5, features=TOY, layer=-1, normalize="utterance")
    other = make_labels([corpus], ("train",), config, out=tmp_path / "five", seed=0).folder
    out = tmp_path / "out"
    written = extract(TOY, out, corpus=corpus.root, units=labels).read_text(encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"another codebook \(6 centres, \w+, not 5 centres"):
        extract(TOY, out, corpus=corpus.root, units=other)
    index = out / "index.json"
    about = json.loads(index.read_text(encoding="utf-8"))
    del about["codebook"]  # as earlier revisions wrote it
    index.write_text(json.dumps(about), encoding="utf-8")
    again = extract(TOY, out, corpus=corpus.root, units=labels).read_text(encoding="utf-8")
    assert again == written
    assert len(written.splitlines()) == len(cuts)
    assert "codebook" in json.loads(index.read_text(encoding="utf-8"))


def test_of_one_layer_only_that_layer_comes_to_the_host_unchanged(
    corpus: Corpus, cuts: list[Any], upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: row for batch in Pass(upstream)(cuts) for name, row in batch}
    shapes, to_host = set(), forward_pass.to_host

    def spy(x: Tensor) -> Tensor:
        shapes.add(x.shape[:-2])
        return to_host(x)

    monkeypatch.setattr(forward_pass, "to_host", spy)
    for batch in Pass(upstream)(cuts, layer=1):
        for name, row in batch:
            assert np.array_equal(row, whole[name][1])
    config = OfflineConfig(features=TOY, layer=1)
    for frames in FeatureSource(config)(cuts):
        for name, row in frames:
            assert np.array_equal(row.numpy(), whole[name][1])
    assert shapes == {()}


def test_processes_that_are_refused_end_with_one_line(
    corpus: Corpus, prefork: builders.Prefork, tmp_path: Path
) -> None:
    argv = ["extract", TOY, "--corpus", str(corpus.root), "--device", "cpu", "--out", str(tmp_path)]
    prefork.run(*argv, "--layer", "0")
    started = prefork.world(2, *argv, "--layer", "1")
    assert [prefork.wait(pid) for pid, _ in started] == [2, 2]
    said = "".join(out.read_text() for _, out in started)
    assert said.count("of an extraction with another layer (0, not 1)") == said.count("error") == 1
