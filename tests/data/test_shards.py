"""Shards: the same utterances, audio and labels as from files, from disk and over HTTP.

What is cut short is named.
"""

import functools
import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from builders import served
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.corpora.segment import segment_corpus
from mt4ssl_bench.corpora.shard import shard_corpus
from mt4ssl_bench.data import audio, download, remote
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import text_of
from mt4ssl_bench.data.frame_grid import frame_count
from mt4ssl_bench.data.label_store import CarriedLabels, LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.data.write_corpus import write_corpus
from mt4ssl_bench.errors import CheckpointError, ConfigError, CorpusError
from mt4ssl_bench.upstream.batches import Batch, PretrainData
from mt4ssl_bench.upstream.config import DataConfig, PretrainConfig, TargetsConfig
from mt4ssl_bench.upstream.pretrain import open_labels

CONFIG = DataConfig(batch_seconds=6, max_seconds=1.0, min_seconds=0.5, workers=0)
SIZE = 4


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    counts = [
        (c.id, frame_count(round(c.duration * audio.RATE)))
        for s in ("train", "valid")
        for c in corpus.cuts(s)
    ]
    info = LabelInfo(digest=corpus.info.digest, clusters=1000)
    return write_labels(
        tmp_path_factory.mktemp("l") / "labels", info, [(name, np.arange(n)) for name, n in counts]
    )


@pytest.fixture(scope="module")
def made(corpus: Corpus, store: LabelStore, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("shards") / "tones"
    return shard_corpus(corpus, out, splits=("train", "valid"), size=SIZE, labels=store)


@pytest.fixture(scope="module")
def url(made: Corpus) -> Iterator[str]:
    with served(made.root) as address:
        yield address


def utterances(batches: list[Batch]) -> dict[str, tuple[bytes, list[int]]]:
    """Return each utterance's audio and labels, whatever batch it is in."""
    found = {}
    for batch in batches:
        assert batch.labels is not None
        for name, wave, length, row in zip(
            batch.ids, batch.waveforms, batch.lengths, batch.labels, strict=True
        ):
            assert name not in found
            found[name] = (
                wave[:length].numpy().tobytes(),
                row[: frame_count(int(length))].tolist(),
            )
    return found


def test_lhotse_reads_the_shards(made: Corpus, corpus: Corpus) -> None:
    cuts = list(CutSet.from_shar(in_dir=made.root / "train"))
    assert sorted(cut.id for cut in cuts) == sorted(cut.id for cut in corpus.cuts("train"))
    assert all(len(cut.load_labels()) == frame_count(cut.num_samples) for cut in cuts)


def test_shards_are_prepared_again_as_lhotses(made: Corpus, corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "again"
    app(
        ["prepare", "lhotse", f"train={made.root / 'train'}", "--out", str(out)],
        standalone_mode=False,
    )
    found = {
        cut.id: text_of(cut) for split in ("train", "valid") for cut in Corpus.open(out).cuts(split)
    }
    assert found == {cut.id: text_of(cut) for cut in corpus.cuts("train")}


def test_a_sharded_corpus_is_the_same_corpus(made: Corpus, corpus: Corpus) -> None:
    assert made.info.digest == corpus.info.digest
    assert (made.info.shards, made.info.labels["clusters"]) == (SIZE, 1000)
    ours = {cut.id: cut for cut in made.cuts("train")}
    for cut in corpus.cuts("train"):
        assert np.array_equal(audio.read(ours[cut.id]), audio.read(cut))
        assert ours[cut.id].supervisions[0].text == cut.supervisions[0].text


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_and_files_give_the_same_batches_as_sets(
    corpus: Corpus, made: Corpus, store: LabelStore, url: str, workers: int
) -> None:
    config = replace(CONFIG, workers=workers)
    carried = CarriedLabels([made.info.labels], corpus.info.digest, 1000)
    plain = list(PretrainData([corpus], "train", config, store, normalized=True)(1))
    for source, labels in ((made, store), (made, carried), (Corpus.open(url), carried)):
        sharded = list(PretrainData([source], "train", config, labels, normalized=True)(1))
        assert utterances(sharded) == utterances(plain)


def test_the_order_changes_with_the_epoch_and_skipping_gives_its_tail(made: Corpus) -> None:
    data = PretrainData([made], "train", replace(CONFIG, batch_seconds=2), None, normalized=True)
    whole = [batch.ids for batch in data(2)]
    assert [batch.ids for batch in data(2, 3)] == whole[3:]
    assert [batch.ids for batch in data(1)] != whole
    shares = [[batch.ids for batch in data(2, rank=rank, world=2)] for rank in (0, 1)]
    assert [shares[n % 2][n // 2] for n in range(len(whole))] == whole


def test_labels_in_the_shards_need_no_store(
    made: Corpus, corpus: Corpus, store: LabelStore, url: str
) -> None:
    config = PretrainConfig(targets=TargetsConfig(offline=OfflineConfig(clusters=1000)))
    digest = corpus.info.digest
    assert isinstance(open_labels(config, [Corpus.open(url)], digest, "cpu"), CarriedLabels)
    with pytest.raises(
        CheckpointError, match=r"clusters=500: the labels in the shards has 1000 clusters"
    ):
        open_labels(PretrainConfig(), [made], digest, "cpu")
    bare = Corpus(url, replace(made.info, labels={}))
    with pytest.raises(ConfigError, match="carry no labels; shard it with --labels"):
        open_labels(config, [bare], digest, "cpu")


def test_labels_in_shards_are_told_apart_by_what_they_state() -> None:
    facts = {"digest": "d", "clusters": 2, "features": "mfcc"}
    kinds = [facts, {**facts, "frames": 9}, {**facts, "made_by": "a"}, {**facts, "made_by": "b"}]
    names = [CarriedLabels([kind], "d", 2).identity for kind in kinds]
    assert len(set(names)) == 4
    assert names[2:] == ["mfcc (a)", "mfcc (b)"]


def test_sharding_again_makes_nothing_again_and_something_else_is_refused(
    corpus: Corpus, made: Corpus, store: LabelStore
) -> None:
    file = made.root / "train" / "recording.000000.tar"
    before = file.stat().st_mtime_ns
    again = functools.partial(shard_corpus, corpus, made.root, splits=("train", "valid"), size=SIZE)
    assert again(labels=store).info == made.info
    assert file.stat().st_mtime_ns == before
    with pytest.raises(CorpusError, match="holds shards of another corpus, size or labels"):
        again()


def test_prepare_writes_shards_beside_the_corpus_and_repeating_it_makes_none_again(
    manifest: Path, corpus: Corpus, tmp_path: Path
) -> None:
    command = [
        "prepare",
        "table",
        str(manifest),
        "--name",
        "tones",
        "--out",
        str(tmp_path / "c"),
        "--shards",
    ]
    times = []
    for _ in range(2):
        app([*command, str(tmp_path / "s")], standalone_mode=False)
        times.append((tmp_path / "s" / "train" / "recording.000000.tar").stat().st_mtime_ns)
    assert times[0] == times[1]
    made = Corpus.open(tmp_path / "s")
    assert made.info.digest == Corpus.open(tmp_path / "c").info.digest
    assert {name: split.utterances for name, split in made.info.splits.items()} == {
        name: split.utterances for name, split in corpus.info.splits.items()
    }


def test_a_folder_of_something_else_is_refused_before_the_corpus_is_prepared(
    manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for taken in (tmp_path / "file", tmp_path / "mine"):
        with pytest.raises(
            CorpusError, match=f"{taken.name}: holds something else than shards; choose another"
        ):
            app(
                [
                    "prepare",
                    "table",
                    str(manifest),
                    "--out",
                    str(tmp_path / "c"),
                    "--shards",
                    str(taken),
                ],
                standalone_mode=False,
            )
    assert not (tmp_path / "c").exists()


def test_an_interrupted_sharding_continues(corpus: Corpus, tmp_path: Path) -> None:
    whole = shard_corpus(corpus, tmp_path / "s", splits=("train",), size=SIZE)
    folder = tmp_path / "s" / "train"
    (tmp_path / "s" / "corpus.json").unlink()
    (tmp_path / "s" / "train.index.npz").unlink()
    (folder / "cuts.000002.jsonl.gz").unlink()  # moved last: without it, the shard is not there
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [folder / f".000002.{dead.pid}", tmp_path / "s" / "test" / f".000000.ab12.{dead.pid}"]
    running = folder / f".000003.ab12.{os.getppid()}"
    for aside in (*left, running):
        aside.mkdir(parents=True)
    first = (folder / "recording.000001.tar").stat().st_mtime_ns
    assert shard_corpus(corpus, tmp_path / "s", splits=("train",), size=SIZE).info == whole.info
    assert (folder / "recording.000001.tar").stat().st_mtime_ns == first
    assert len(list(Corpus.open(tmp_path / "s").cuts("train"))) == 18
    assert [p for p in folder.iterdir() if p.name.startswith(".")] == [running]
    assert not any(aside.exists() for aside in left)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_cut_short_is_named_and_never_a_hang(
    corpus: Corpus, tmp_path: Path, workers: int
) -> None:
    made = shard_corpus(corpus, tmp_path / "s", splits=("train",), size=SIZE)
    file = tmp_path / "s" / "train" / "recording.000002.tar"
    file.write_bytes(file.read_bytes()[:3000])
    data = PretrainData([made], "train", replace(CONFIG, workers=workers), None, normalized=True)
    with pytest.raises(
        CorpusError, match=r"recording\.000002\.tar: cut short or changed: 3000 bytes, not \d+"
    ):
        list(data(0))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train/cuts.000001.jsonl.gz", b"not gzip"),
        ("train/cuts.000001.jsonl.gz", gzip.compress(b'{"id": "half')),
        ("train/recording.000001.tar", None),
    ],
    ids=["foreign lines", "half a line", "zeros"],
)
def test_a_damaged_shard_is_named(
    corpus: Corpus, tmp_path: Path, file: str, content: bytes | None
) -> None:
    made = shard_corpus(corpus, tmp_path / "s", splits=("train",), size=SIZE)
    path = made.root / file
    path.write_bytes(bytes(path.stat().st_size) if content is None else content)
    cuts = made.cuts("train")
    assert cuts[0].id
    for place in range(SIZE, 2 * SIZE):
        with pytest.raises(
            CorpusError,
            match=r"train, shard 000001: damaged \(.*\); copy it or make the shards again",
        ):
            cuts[place]


def test_an_index_cut_short_is_named(corpus: Corpus, tmp_path: Path) -> None:
    made = shard_corpus(corpus, tmp_path / "s", splits=("valid",), size=SIZE)
    index = made.root / "valid.index.npz"
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(
        CorpusError, match=r"valid\.index\.npz: missing or damaged \(.*\); make the shards again"
    ):
        made.cuts("valid")


def test_a_split_that_the_labels_leave_out_is_sharded_without(
    corpus: Corpus,
    store: LabelStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuts = {split: list(corpus.cuts(split)) for split in ("train", "valid", "test")}
    cuts |= {"sid_train": cuts["train"], "sid_test": cuts["valid"] + cuts["test"]}
    whole = write_corpus(
        tmp_path / "c", cuts, lambda splits: replace(corpus.info, splits=splits, fields=[])
    )
    made = shard_corpus(whole, tmp_path / "s", size=SIZE, labels=store)
    said = {
        split: f"split '{split}': the label store does not cover it" in caplog.text
        for split in whole.info.splits
    }
    assert said == {
        "train": False,
        "valid": False,
        "test": True,
        "sid_train": False,
        "sid_test": True,
    }
    assert {p.name.split(".")[0] for p in (made.root / "test").iterdir()} == {"cuts", "recording"}
    assert len(list(made.cuts("test"))) == 3
    assert all(len(cut.load_labels()) for cut in made.cuts("valid"))


def test_a_split_with_some_labels_is_an_error_that_leaves_nothing_half_done(
    corpus: Corpus, tmp_path: Path
) -> None:
    first = corpus.cuts("train")[0].id
    some = write_labels(
        tmp_path / "l", LabelInfo(digest=corpus.info.digest, clusters=9), [(first, np.arange(9))]
    )
    with pytest.raises(CheckpointError, match="none for utterance"):
        shard_corpus(corpus, tmp_path / "s", splits=("train",), size=SIZE, labels=some)
    assert not list((tmp_path / "s" / "train").glob(".*"))
    with pytest.raises(
        CorpusError, match="the label store has none of its utterances; name one made from it"
    ):
        shard_corpus(corpus, tmp_path / "t", splits=("test",), size=SIZE, labels=some)
    assert not (tmp_path / "t").exists()


def test_a_file_that_cannot_be_read_is_left_out_and_counted(corpus: Corpus, tmp_path: Path) -> None:
    class Without:
        info, root = corpus.info, corpus.root

        def cuts(self, split: str) -> list[object]:
            cuts = list(corpus.cuts(split))
            cuts[3].recording.sources[0].source = "nowhere.flac"
            return cuts

    # type: ignore[arg-type]
    made = shard_corpus(Without(), tmp_path / "s", splits=("train",), size=SIZE)
    name = corpus.cuts("train")[3].id
    assert made.info.splits["train"].utterances == 17
    assert made.info.notes == {**corpus.info.notes, "unreadable": 1, "unreadable_examples": [name]}
    assert name not in {cut.id for cut in made.cuts("train")}


WHOLE = np.random.default_rng(0).integers(-(2**15), 2**15, (16_000, 2)) / 2**15
FINE = WHOLE[:, 0] / 2**8 + 2**-23


@pytest.mark.parametrize(
    ("name", "kind", "samples", "container"),
    [
        ("a.wav", "PCM_16", WHOLE, "flac"),
        ("a.flac", "PCM_24", FINE, "flac"),
        ("a.wav", "FLOAT", 4 * WHOLE, "wav"),
        ("a.mp3", None, WHOLE[:, 0] / 4, "wav"),
        ("a.wav", "PCM_16", WHOLE[:1800].reshape(-1, 9), "wav"),  # more channels than FLAC has
    ],
)
def test_every_sample_survives_in_a_shard(
    tmp_path: Path, name: str, kind: str | None, samples: np.ndarray, container: str
) -> None:
    soundfile.write(tmp_path / name, samples, 8000, subtype=kind)
    (tmp_path / "m.tsv").write_text(f"id\tpath\tsplit\nu.1\t{name}\ttrain\n")
    corpus = prepare_path("table", tmp_path / "m.tsv", tmp_path / "corpus")
    made = shard_corpus(corpus, tmp_path / "shards")
    (cut,), (kept,) = corpus.cuts("train"), made.cuts("train")
    assert np.array_equal(audio.read(kept), audio.read(cut))
    assert made.info.digest == corpus.info.digest
    with tarfile.open(tmp_path / "shards" / "train" / "recording.000000.tar") as tar:
        assert tar.getnames() == [f"u.1.{container}", "u.1.json"]
    (again,) = CutSet.from_shar(in_dir=tmp_path / "shards" / "train")
    assert again.load_audio().shape == (samples[:1].size, again.recording.num_samples)


@pytest.mark.parametrize(("kind", "rounded"), [("PCM_16", False), ("PCM_24", True)])
def test_shards_of_a_revision_that_rounded_to_16_bit_are_taken_only_where_that_was_enough(
    tmp_path: Path, kind: str, *, rounded: bool
) -> None:
    soundfile.write(tmp_path / "a.wav", FINE if rounded else WHOLE, 8000, subtype=kind)
    (tmp_path / "m.tsv").write_text("id\tpath\tsplit\nu.1\ta.wav\ttrain\n")
    corpus = prepare_path("table", tmp_path / "m.tsv", tmp_path / "corpus")
    made = shard_corpus(corpus, tmp_path / "shards")
    plan = json.loads((made.root / "shards.json").read_text())
    (made.root / "shards.json").write_text(
        json.dumps({key: plan[key] for key in ("digest", "size", "labels")})
    )
    if rounded:
        with pytest.raises(CorpusError, match="rounded the audio to 16 bit; choose another folder"):
            shard_corpus(corpus, made.root)
    else:
        assert shard_corpus(corpus, made.root).info == made.info


def test_parts_of_a_file_and_shards_of_shards_keep_every_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", FINE, 8000, subtype="PCM_24")
    whole = prepare_path("folder", tmp_path, tmp_path / "whole")
    parts = segment_corpus(
        whole, tmp_path / "parts", max_seconds=0.5, min_seconds=0.1, by="windows"
    )
    made = shard_corpus(parts, tmp_path / "shards")
    again = shard_corpus(made, tmp_path / "again")
    for each in (made, again):
        found = {cut.id: audio.read(cut) for cut in each.cuts("train")}
        assert len(found) == 4
        for cut in parts.cuts("train"):
            assert np.array_equal(found[cut.id], audio.read(cut))


def test_a_server_that_fails_is_tried_again_and_named(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with pytest.raises(CorpusError, match=r"/none\.tar: HTTP 404 File not found"):
        remote.fetch(f"{url}/none.tar")
    assert json.loads(remote.fetch(f"{url}/corpus.json").read())["shards"] == SIZE
    with pytest.raises(CorpusError, match="only shards are read from a URL"):
        Corpus(url, replace(Corpus.open(url).info, shards=0)).cuts("train")


def test_shards_and_files_are_not_mixed(corpus: Corpus, made: Corpus) -> None:
    with pytest.raises(CorpusError, match="cannot be read together"):
        PretrainData([corpus, made], "train", CONFIG, None, normalized=True)
    both = PretrainData([made, made], "train", CONFIG, None, normalized=True)
    assert sum(len(batch.ids) for batch in both(0)) == 36


def test_a_url_that_nothing_here_opens_says_what_would() -> None:
    with pytest.raises(
        CorpusError, match=r"^nothing://bucket/corpus\.json: .*pip install 'smart_open\[s3\]'$"
    ):
        Corpus.open("nothing://bucket")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8765/lang s", "http://127.0.0.1:abc/x", "http://[::1/x"]
)
def test_a_malformed_url_is_one_line(url: str) -> None:
    with pytest.raises(
        CorpusError,
        match=r"^http://.*/corpus\.json: not a URL \(.*\); expected http://host:8000/folder",
    ):
        Corpus.open(url)
