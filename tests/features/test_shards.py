"""Passes in shards that end in one file: continued on another device, after kills and removals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from fakes import Moments
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.hidden_states import PROBE
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.features import shards, store
from mt4ssl_bench.features.file import FeatureSet, StoredFeatures, Writer
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.index import read_index, write_index
from mt4ssl_bench.features.store import GIB, FeatureStore, StoreConfig, clear, entries
from mt4ssl_bench.training.distributed import World

FP32 = StoreConfig(precision="fp32")
TWO = World(size=2)  # one of two processes, which shards its passes; it finds no other's lock


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("train"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass over the 18 training cuts take several shards."""
    monkeypatch.setattr(shards, "BATCHES", 1)
    batches_of(6.0, monkeypatch)


def batches_of(seconds: float, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("mt4ssl_bench.features.forward_pass.BATCH_SECONDS", seconds)


def features(
    root: Path, cuts: Sequence[Any], model: Moments, world: World = TWO, **keys: Any
) -> FeatureSet:
    config = StoreConfig(precision="fp32", **keys)
    return FeatureStore(root, config, world).features(Pass(model), "d1", "train", cuts)


def assert_whole(root: Path, found: FeatureSet, cuts: Sequence[Any]) -> None:
    """Check every value, that each utterance is there once, and that nothing else is left."""
    for cut in cuts:
        frames = audio.read(cut)
        frames = frames[: len(frames) // 320 * 320].reshape(-1, 320)
        first = np.stack([frames.mean(1), frames.max(1), frames.min(1)], axis=1)
        assert np.allclose(found.get(cut.id), [first, 2 * first], rtol=0, atol=1e-7)
    (file,) = root.glob("[!.]*/*.bin")
    assert sorted(line.name for line in read_index(file)[1]) == sorted(cut.id for cut in cuts)
    assert len(list(file.parent.iterdir())) == 2, "values and index"


class Meddled(Moments):
    """Something happens in its first pass."""

    def __init__(self, meddle: Callable[[], Any]) -> None:
        super().__init__()
        self.meddle = meddle

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        if not self.calls and not set(lengths.tolist()) <= set(PROBE):
            self.meddle()
        return super().extract(waveforms, lengths)


@pytest.mark.parametrize("seconds", [2.5, 80.0])
def test_a_pass_that_goes_on_with_other_batches_has_no_holes(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, cuts, Moments(fail_at=3))
    assert len(list(tmp_path.rglob("*.shards/*.index"))) == 2
    batches_of(seconds, monkeypatch)  # as on another kind of device
    assert_whole(tmp_path, features(tmp_path, cuts, Moments()), cuts)


def test_a_pass_that_goes_on_with_the_same_batches_makes_no_shard_twice(
    tmp_path: Path, cuts: list[Any]
) -> None:
    first, second = Moments(fail_at=3), Moments()
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, cuts, first)
    found = features(tmp_path, cuts, second, World())
    assert first.utterances + second.utterances - len(cuts) < 6, "those of the interrupted batch"
    assert_whole(tmp_path, found, cuts)


def test_shards_of_an_earlier_revision_are_removed(tmp_path: Path, cuts: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, cuts, Moments(fail_at=3))
    for number, index in enumerate(sorted(tmp_path.rglob("*.shards/*.index"))):
        for suffix in (".bin", ".index"):  # which named them by number
            index.with_suffix(suffix).rename(index.with_name(f"{number:03d}{suffix}"))
    model = Moments()
    assert_whole(tmp_path, features(tmp_path, cuts, model), cuts)
    assert model.utterances == len(cuts)


def interrupted(root: Path, cuts: Sequence[Any]) -> Path:
    """Leave what one process's pass has when it is interrupted; return its file."""
    with pytest.raises(KeyboardInterrupt):
        features(root, cuts, Moments(fail_at=3), World())
    (file,) = root.glob("*/*.bin")
    assert file.with_suffix(".index.partial").read_text(encoding="utf-8").count("\n") > 2
    return file


def test_what_was_there_and_is_removed_meanwhile_is_made_again(
    tmp_path: Path, cuts: list[Any]
) -> None:
    file = interrupted(tmp_path, cuts)

    def remove() -> None:
        for suffix in (".bin", ".index.partial"):
            file.with_suffix(suffix).unlink()

    assert_whole(tmp_path, features(tmp_path, cuts, Meddled(remove)), cuts)


def test_an_unfinished_entry_is_not_removed_while_its_shards_are_made(
    tmp_path: Path, cuts: list[Any]
) -> None:
    interrupted(tmp_path, cuts)
    removed: list[Any] = []
    model = Meddled(lambda: removed.extend(clear(tmp_path)))
    found = features(tmp_path, cuts, model)
    assert removed == []
    assert model.utterances < len(cuts)
    assert_whole(tmp_path, found, cuts)
    assert len(clear(tmp_path)) == 1


def test_shards_of_a_file_that_others_finish_meanwhile_are_given_up(
    tmp_path: Path, cuts: list[Any]
) -> None:
    single = Moments()
    # another command, in one process, began before this one and ends while its first shard is made
    model = Meddled(lambda: finish_alone(tmp_path, cuts, single))
    assert_whole(tmp_path, features(tmp_path, cuts, model), cuts)
    assert single.utterances == len(cuts)
    assert model.calls == 1


def finish_alone(root: Path, cuts: Sequence[Any], model: Moments) -> None:
    """Do what a process does that saw no shards when it began."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "shard_folder", lambda file: file.with_suffix(".none"))
        features(root, cuts, model, World())
    for folder in root.glob("*/*.shards"):
        store.shutil.rmtree(folder)


def test_a_kill_while_shards_are_joined_appends_none_of_them_twice(
    tmp_path: Path, cuts: list[Any]
) -> None:
    note = Writer._note

    def killed(self: Writer, *arguments: Any) -> None:
        note(self, *arguments)
        if not self.file.parent.name.endswith(".shards"):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            features(tmp_path, cuts, Moments())
    model = Moments()
    assert_whole(tmp_path, features(tmp_path, cuts, model), cuts)
    assert model.calls == 0


def test_a_damaged_shard_is_made_again(
    tmp_path: Path, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, cuts, Moments(fail_at=3))
    shard, *_ = sorted(tmp_path.rglob("*.shards/*.index"))
    shard.with_suffix(".bin").write_bytes(b"")
    model = Moments()
    assert_whole(tmp_path, features(tmp_path, cuts, model), cuts)
    assert "damaged" in caplog.text
    assert "computing it again" in caplog.text


def test_an_entry_that_lacks_utterances_is_made_again(
    tmp_path: Path, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    features(tmp_path, cuts, Moments())
    (file,) = tmp_path.glob("[!.]*/*.bin")
    header, lines = read_index(file)
    with file.open("r+b") as values:  # as an earlier revision may have joined it
        values.truncate(sum(line.rows for line in lines[:-2]) * header.row_bytes)
    write_index(file, header, lines[:-2])
    assert_whole(tmp_path, features(tmp_path, cuts, Moments(), World()), cuts)
    assert "2 utterances are missing; computing it again" in caplog.text


@pytest.mark.parametrize("machines", [1, 2])
def test_what_a_command_on_several_machines_has_opened_is_not_removed(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 // machines))
    features(tmp_path, cuts, Moments("a"))
    size = sum(entry.bytes for entry in entries(tmp_path))
    opened = features(tmp_path, cuts, Moments("a"))
    features(tmp_path, cuts, Moments("b"), limit_gb=1.2 * size / GIB)
    kept = {entry.header.fingerprint for entry in entries(tmp_path)}
    assert kept == ({"b"} if machines == 1 else {"a"})
    assert isinstance(opened, StoredFeatures)
    monkeypatch.setattr(store, "STARTED", store.STARTED + 3600)  # the next command
    features(tmp_path, cuts, Moments("c"), limit_gb=1.2 * size / GIB)
    assert {entry.header.fingerprint for entry in entries(tmp_path)} == {"c"}
