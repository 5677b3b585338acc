"""The feature store with a fake upstream: one pass per content, whole or not at all, within its limit, exact means."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mt4ssl_bench import audio
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import BenchError, CheckpointError, UpstreamError
from mt4ssl_bench.features import Features, Upstream
from mt4ssl_bench.store import GIB, Crops, FeatureStore, StoreConfig

FP32 = StoreConfig(precision="fp32")
WHOLE = Crops(seconds=0)


class Fake:
    """Two layers of (mean, largest, smallest sample) per 320 samples, the second one doubled; counts its passes."""

    name = "fake"
    num_layers, dim, stride = 2, 3, 320
    parameters = 0

    def __init__(self, fingerprint: str = "f00d", *, fail_at: int = 0, spoil: float = 0.0) -> None:
        self.fingerprint, self.fail_at, self.spoil = fingerprint, fail_at, spoil
        self.calls = self.heard = 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        self.calls += 1
        self.heard += len(waveforms)
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        frames = waveforms.unfold(1, self.stride, self.stride)  # (B, T, 320)
        first = torch.stack([frames.mean(-1), frames.amax(-1), frames.amin(-1)], dim=-1)
        if self.spoil:
            first[0, 0, 0] = self.spoil
        return Features(torch.stack([first, 2 * first]), lengths // self.stride)


def by_hand(samples: np.ndarray) -> np.ndarray:
    """Return what Fake makes of one waveform, (T, L, D), written anew."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    first = np.stack([frames.mean(1), frames.max(1), frames.min(1)], axis=1)
    return np.stack([first, 2 * first], axis=1)


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("train"))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass over the 18 training cuts take several batches."""
    monkeypatch.setattr("mt4ssl_bench.store.BATCH_SECONDS", 6.0)


def files(root: Path) -> list[str]:
    return sorted(file.name for folder in root.iterdir() for file in folder.iterdir())


def size(root: Path) -> int:
    return sum(file.stat().st_size for folder in root.iterdir() for file in folder.iterdir())


# ---- one pass per content ----


def test_the_fake_is_an_upstream() -> None:
    assert isinstance(Fake(), Upstream)


@pytest.mark.usefixtures("small_batches")
def test_frames_are_those_made_by_hand_whatever_the_batches(tmp_path: Path, cuts: list[Any]) -> None:
    upstream = Fake()
    features = FeatureStore(tmp_path, FP32).frames(upstream, "d1", "train", cuts)
    assert upstream.calls > 3
    assert (len(features), features.layers, features.dim) == (18, 2, 3)
    for cut in cuts:
        expected = by_hand(audio.read(cut))
        assert features.get(cut.id).shape == (int(cut.duration * 50), 2, 3)
        assert np.allclose(features.get(cut.id), expected, rtol=0, atol=1e-7)


def test_the_second_request_costs_no_pass_even_in_another_process(tmp_path: Path, cuts: list[Any]) -> None:
    upstream = Fake()
    first = FeatureStore(tmp_path, FP32).frames(upstream, "d1", "train", cuts)
    calls = upstream.calls
    second = FeatureStore(tmp_path, FP32).frames(upstream, "d1", "train", cuts[::-1])
    third = FeatureStore(tmp_path, FP32).frames(Fake(fail_at=1), "d1", "train", cuts)
    assert upstream.calls == calls
    for cut in cuts:
        assert np.array_equal(first.get(cut.id), second.get(cut.id))
        assert np.array_equal(first.get(cut.id), third.get(cut.id))


@pytest.mark.parametrize(
    ("fingerprint", "digest", "split", "precision", "count"),
    [
        ("beef", "d1", "train", "fp32", 18),
        ("f00d", "d2", "train", "fp32", 18),
        ("f00d", "d1", "valid", "fp32", 18),
        ("f00d", "d1", "train", "fp16", 18),
        ("f00d", "d1", "train", "fp32", 17),
    ],
)
def test_other_weights_corpora_splits_precisions_or_cuts_take_a_pass_of_their_own(
    tmp_path: Path, cuts: list[Any], fingerprint: str, digest: str, split: str, precision: Any, count: int
) -> None:
    FeatureStore(tmp_path, FP32).frames(Fake(), "d1", "train", cuts)
    other = Fake(fingerprint)
    features = FeatureStore(tmp_path, StoreConfig(precision=precision)).frames(other, digest, split, cuts[:count])
    assert other.heard == len(features) == count


def test_frames_and_means_and_other_crops_do_not_share_an_entry(tmp_path: Path, cuts: list[Any]) -> None:
    upstream, store = Fake(), FeatureStore(tmp_path, FP32)
    store.frames(upstream, "d1", "train", cuts)
    for crops in (WHOLE, Crops(seconds=0.5), Crops(seconds=0.5, seed=1), Crops(seconds=0.25)):
        before = upstream.heard
        for _ in range(2):
            store.means(upstream, "d1", "train", cuts, crops)
        assert upstream.heard == before + 18
    before = upstream.heard
    store.means(upstream, "d1", "train", cuts, Crops(seconds=0.5, count=2))
    assert upstream.heard == before + 36


def test_half_precision_takes_half_the_disk_and_is_near(tmp_path: Path, cuts: list[Any]) -> None:
    full = FeatureStore(tmp_path / "32", FP32).frames(Fake(), "d1", "train", cuts)
    half = FeatureStore(tmp_path / "16", StoreConfig()).frames(Fake(), "d1", "train", cuts)
    sizes = [next((tmp_path / kind).glob("*/*.bin")).stat().st_size for kind in ("32", "16")]
    frames = sum(int(cut.duration * 50) for cut in cuts)
    assert sizes == [frames * 2 * 3 * 4, frames * 2 * 3 * 2]
    for cut in cuts:
        assert (full.get(cut.id).dtype, half.get(cut.id).dtype) == (np.float32, np.float16)
        assert np.allclose(full.get(cut.id), half.get(cut.id), rtol=1e-3, atol=1e-6)


def test_a_batch_is_padded_single_precision_with_the_frames_of_each(tmp_path: Path, cuts: list[Any]) -> None:
    features = FeatureStore(tmp_path, StoreConfig()).frames(Fake(), "d1", "train", cuts)
    names = [cuts[5].id, cuts[0].id, cuts[2].id]
    padded, lengths = features.batch(names)
    assert padded.dtype == torch.float32
    assert lengths.tolist() == [len(features.get(name)) for name in names]
    assert padded.shape == (3, max(lengths.tolist()), 2, 3)
    for row, length, name in zip(padded, lengths, names, strict=True):
        assert np.array_equal(row[:length].numpy(), features.get(name).astype(np.float32))
        assert not row[length:].any()


# ---- means ----


@pytest.mark.usefixtures("small_batches")
def test_means_of_whole_utterances_are_the_means_of_their_frames(tmp_path: Path, cuts: list[Any]) -> None:
    features = FeatureStore(tmp_path, FP32).means(Fake(), "d1", "train", cuts, WHOLE)
    for cut in cuts:
        expected = by_hand(audio.read(cut)).mean(0)
        assert features.get(cut.id).shape == (1, 2, 3)
        assert np.allclose(features.get(cut.id)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_batches")
def test_means_of_crops_are_the_means_of_frames_of_pieces_of_the_utterance(tmp_path: Path, cuts: list[Any]) -> None:
    crops = Crops(seconds=0.5, count=3, seed=4)
    features = FeatureStore(tmp_path, FP32).means(Fake(), "d1", "train", cuts, crops)
    for cut in cuts[:3]:
        samples = audio.read(cut)
        # every start that a crop of 8,000 samples may have: (S, 25 frames, 320)
        windows = np.lib.stride_tricks.sliding_window_view(samples, 8_000).reshape(-1, 25, 320)
        pieces = np.stack([windows.mean(2), windows.max(2), windows.min(2)], axis=2).mean(1)  # (S, 3)
        found = features.get(cut.id)
        assert found.shape == (3, 2, 3)
        for mean in found:
            assert np.abs(pieces - mean[0]).max(1).min() < 1e-6
            assert np.allclose(mean[1], 2 * mean[0], rtol=0, atol=1e-6)


def test_crops_depend_on_seed_and_utterance_alone(tmp_path: Path, cuts: list[Any]) -> None:
    def crop(folder: str, seed: int, members: Sequence[Any]) -> dict[str, np.ndarray]:
        crops = Crops(seconds=0.5, count=4, seed=seed)
        features = FeatureStore(tmp_path / folder, FP32).means(Fake(), "d1", "train", members, crops)
        return {cut.id: np.array(features.get(cut.id)) for cut in members}

    first, again, other = crop("a", 0, cuts), crop("b", 0, cuts[3:9]), crop("c", 1, cuts)
    for cut in cuts:
        assert len({row.tobytes() for row in first[cut.id]}) >= 3  # two of thousands of places may coincide
        assert not np.array_equal(first[cut.id], other[cut.id])
    for cut in cuts[3:9]:
        assert np.allclose(first[cut.id], again[cut.id], rtol=0, atol=1e-7)


def test_an_utterance_shorter_than_the_crop_is_taken_whole_every_time(tmp_path: Path, cuts: list[Any]) -> None:
    features = FeatureStore(tmp_path, FP32).means(Fake(), "d1", "train", cuts, Crops(seconds=60, count=2))
    for cut in cuts:
        expected = by_hand(audio.read(cut)).mean(0)
        assert np.allclose(features.get(cut.id), [expected, expected], rtol=0, atol=1e-6)


# ---- the limit ----


def need(cuts: list[Any], itemsize: int = 4) -> int:
    """Return the bytes of the cuts' frames as the store reckons them beforehand."""
    return int(sum(cut.duration for cut in cuts) * 50) * 2 * 3 * itemsize


def test_features_that_never_fit_are_refused_before_any_pass_with_both_numbers(tmp_path: Path, cuts: list[Any]) -> None:
    upstream = Fake()
    with pytest.raises(BenchError) as caught:
        FeatureStore(tmp_path, StoreConfig(precision="fp32", limit_gb=1e-5)).frames(upstream, "d1", "train", cuts)
    numbers = f"features need {need(cuts) / GIB:.3g} GiB; store.limit_gb allows 1e-05 and the disk has "
    assert str(caught.value).startswith(numbers)
    assert "raise store.limit_gb, choose another --store, or evaluate a smaller split" in str(caught.value)
    assert upstream.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_features_that_the_disk_does_not_hold_are_refused_before_any_pass(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("mt4ssl_bench.store.shutil.disk_usage", lambda _: usage)
    upstream = Fake()
    with pytest.raises(BenchError, match=r"the disk has 9\.31e-07 free"):
        FeatureStore(tmp_path, FP32).frames(upstream, "d1", "train", cuts)
    assert upstream.calls == 0


def fill(root: Path, cuts: list[Any], names: Sequence[str]) -> None:
    """Store an entry for each fingerprint, the first one unused for longest."""
    for age, name in enumerate(names):
        FeatureStore(root, FP32).frames(Fake(name), "d1", "train", cuts)
        os.utime(root / f"{name}-d1-fp32", (1_000 + age, 1_000 + age))


def entries(root: Path) -> set[str]:
    return {folder.name.split("-")[0] for folder in root.iterdir()}


def test_the_entries_unused_for_longest_go_first_and_only_as_many_as_must(tmp_path: Path, cuts: list[Any]) -> None:
    fill(tmp_path, cuts, ["a", "b", "c"])
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 100) / GIB)
    FeatureStore(tmp_path, limit).frames(Fake("new"), "d1", "train", cuts)
    assert entries(tmp_path) == {"b", "c", "new"}


def test_using_an_entry_makes_it_young_again(tmp_path: Path, cuts: list[Any]) -> None:
    fill(tmp_path, cuts, ["a", "b", "c"])
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 100) / GIB)
    FeatureStore(tmp_path, limit).frames(Fake("a", fail_at=1), "d1", "train", cuts)
    FeatureStore(tmp_path, limit).frames(Fake("new"), "d1", "train", cuts)
    assert entries(tmp_path) == {"a", "c", "new"}


def test_room_that_older_entries_take_counts_as_free(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, cuts, ["a"])
    monkeypatch.setattr("mt4ssl_bench.store.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 100) / GIB)
    FeatureStore(tmp_path, limit).frames(Fake("new"), "d1", "train", cuts)
    assert entries(tmp_path) == {"new"}


def test_nothing_is_deleted_for_features_that_will_not_fit_all_the_same(tmp_path: Path, cuts: list[Any]) -> None:
    fill(tmp_path, cuts[:6], ["a", "b"])
    limit = StoreConfig(precision="fp32", limit_gb=need(cuts) * 0.9 / GIB)
    with pytest.raises(BenchError, match="features need"):
        FeatureStore(tmp_path, limit).frames(Fake("new"), "d1", "train", cuts)
    assert entries(tmp_path) == {"a", "b"}


def test_features_of_the_same_model_and_corpus_are_never_deleted_for_one_another(
    tmp_path: Path, cuts: list[Any]
) -> None:
    fill(tmp_path, cuts, ["a"])
    limit = StoreConfig(precision="fp32", limit_gb=size(tmp_path) * 1.5 / GIB)
    with pytest.raises(BenchError, match="features need"):
        FeatureStore(tmp_path, limit).frames(Fake("a"), "d1", "valid", cuts)
    assert [name.split(".")[0] for name in files(tmp_path)] == ["train", "train"]


# ---- failures ----


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_naming_the_utterances(
    tmp_path: Path, cuts: list[Any], value: float
) -> None:
    store, upstream = FeatureStore(tmp_path, FP32), Fake(spoil=value)
    message = rf"^upstream 'fake' returned NaN or infinity within {cuts[0].id}$"
    with pytest.raises(UpstreamError, match=message):
        store.frames(upstream, "d1", "train", cuts[:1])
    with pytest.raises(UpstreamError, match=message):
        store.means(upstream, "d1", "train", cuts[:1], WHOLE)
    assert files(tmp_path) == []


def test_values_beyond_half_precision_are_refused_with_what_to_set(tmp_path: Path, cuts: list[Any]) -> None:
    with pytest.raises(UpstreamError, match=r"are too large for fp16; set store\.precision=fp32"):
        FeatureStore(tmp_path, StoreConfig()).frames(Fake(spoil=7e4), "d1", "train", cuts)
    assert files(tmp_path) == []
    features = FeatureStore(tmp_path, FP32).frames(Fake(spoil=7e4), "d1", "train", cuts)
    assert max(features.get(cut.id).max() for cut in cuts) == 140_000


@pytest.mark.usefixtures("small_batches")
def test_an_interrupted_pass_leaves_nothing_and_the_next_one_makes_it_whole(tmp_path: Path, cuts: list[Any]) -> None:
    store = FeatureStore(tmp_path, FP32)
    with pytest.raises(KeyboardInterrupt):
        store.frames(Fake(fail_at=3), "d1", "train", cuts)
    assert files(tmp_path) == []
    features = store.frames(Fake(), "d1", "train", cuts)
    assert len(features) == 18
    for cut in cuts:
        assert np.allclose(features.get(cut.id), by_hand(audio.read(cut)), rtol=0, atol=1e-7)
    assert len(files(tmp_path)) == 2


def test_values_without_an_index_count_for_nothing(tmp_path: Path, cuts: list[Any]) -> None:
    store, upstream = FeatureStore(tmp_path, FP32), Fake()
    store.frames(upstream, "d1", "train", cuts)
    next(tmp_path.glob("*/*.json")).unlink()  # as a kill between the two renames leaves it
    before = upstream.heard
    assert len(store.frames(upstream, "d1", "train", cuts)) == 18
    assert upstream.heard == before + 18


def test_a_full_disk_is_reported_with_what_to_do_and_leaves_nothing(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BenchError, match=r"No space left on device.*; free disk space or choose another --store"):
        FeatureStore(tmp_path, FP32).frames(Fake(), "d1", "train", cuts)
    assert files(tmp_path) == []


@pytest.mark.parametrize("damage", ["short values", "no values", "index cut short", "index of another kind"])
def test_a_damaged_entry_is_named_with_what_to_do(tmp_path: Path, cuts: list[Any], damage: str) -> None:
    store = FeatureStore(tmp_path, FP32)
    store.frames(Fake(), "d1", "train", cuts)
    values, index = next(tmp_path.glob("*/*.bin")), next(tmp_path.glob("*/*.json"))
    if damage == "short values":
        values.write_bytes(values.read_bytes()[:-8])
    elif damage == "no values":
        values.unlink()
    elif damage == "index cut short":
        index.write_text(index.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    else:
        index.write_text(json.dumps({"rows": 1}), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        store.frames(Fake(), "d1", "train", cuts)
    assert str(caught.value).startswith(f"features {values}: damaged (")
    assert str(caught.value).endswith("; delete it and evaluate again")
