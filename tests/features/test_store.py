"""The feature store with a fake upstream: one pass per content, whole or not at all, within its
limit, exact means.
"""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import environment
from fakes import Moments
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import BenchError, UpstreamError
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.file import StoredFeatures
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.store import GIB, FeatureStore, StoreConfig, clear, entries

FP32 = StoreConfig(precision="fp32")
WHOLE = Crops(seconds=0)


def by_hand(samples: np.ndarray) -> np.ndarray:
    """Return what Moments makes of one waveform, (L, T, D), written anew."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    first = np.stack([frames.mean(1), frames.max(1), frames.min(1)], axis=1)
    return np.stack([first, 2 * first])


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("train"))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass over the 18 training cuts take several batches."""
    monkeypatch.setattr("mt4ssl_bench.features.forward_pass.BATCH_SECONDS", 6.0)


def files(root: Path) -> list[str]:
    return sorted(file.name for file in root.glob("[!.]*/*"))


def size(root: Path) -> int:
    return sum(file.stat().st_size for file in root.glob("[!.]*/*"))


# ---- one pass per content ----


def test_the_fake_is_an_upstream() -> None:
    assert isinstance(Moments(), Upstream)


@pytest.mark.usefixtures("small_batches")
def test_frames_are_those_made_by_hand_whatever_the_batches(
    tmp_path: Path, cuts: list[Any]
) -> None:
    upstream = Moments()
    features = FeatureStore(tmp_path, FP32).features(Pass(upstream), "d1", "train", cuts)
    assert upstream.calls > 3
    assert (len(features), features.layers, features.dim) == (18, 2, 3)
    for cut in cuts:
        expected = by_hand(audio.read(cut))
        assert features.get(cut.id).shape == (2, int(cut.duration * 50), 3)
        assert np.allclose(features.get(cut.id), expected, rtol=0, atol=1e-7)


def test_the_second_request_costs_no_pass_even_in_another_process(
    tmp_path: Path, cuts: list[Any]
) -> None:
    upstream = Moments()
    first = FeatureStore(tmp_path, FP32).features(Pass(upstream), "d1", "train", cuts)
    calls = upstream.calls
    second = FeatureStore(tmp_path, FP32).features(Pass(upstream), "d1", "train", cuts[::-1])
    third = FeatureStore(tmp_path, FP32).features(Pass(Moments(fail_at=1)), "d1", "train", cuts)
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
    tmp_path: Path,
    cuts: list[Any],
    fingerprint: str,
    digest: str,
    split: str,
    precision: Any,
    count: int,
) -> None:
    FeatureStore(tmp_path, FP32).features(Pass(Moments()), "d1", "train", cuts)
    other = Moments(fingerprint)
    features = FeatureStore(tmp_path, StoreConfig(precision=precision)).features(
        Pass(other), digest, split, cuts[:count]
    )
    assert other.utterances == len(features) == count


def test_frames_and_means_and_other_crops_do_not_share_an_entry(
    tmp_path: Path, cuts: list[Any]
) -> None:
    upstream, store = Moments(), FeatureStore(tmp_path, FP32)
    store.features(Pass(upstream), "d1", "train", cuts)
    for crops in (WHOLE, Crops(seconds=0.5), Crops(seconds=0.5, seed=1), Crops(seconds=0.25)):
        before = upstream.utterances
        for _ in range(2):
            store.features(Pass(upstream, crops), "d1", "train", cuts)
        assert upstream.utterances == before + 18
    before = upstream.utterances
    store.features(Pass(upstream, Crops(seconds=0.5, count=2)), "d1", "train", cuts)
    assert upstream.utterances == before + 36


def test_half_precision_takes_half_the_disk_and_is_near(tmp_path: Path, cuts: list[Any]) -> None:
    full = FeatureStore(tmp_path / "32", FP32).features(Pass(Moments()), "d1", "train", cuts)
    half = FeatureStore(tmp_path / "16", StoreConfig()).features(
        Pass(Moments()), "d1", "train", cuts
    )
    sizes = [next((tmp_path / kind).glob("*/*.bin")).stat().st_size for kind in ("32", "16")]
    frames = sum(int(cut.duration * 50) for cut in cuts)
    assert sizes == [frames * 2 * 3 * 4, frames * 2 * 3 * 2]
    for cut in cuts:
        assert full.get(cut.id).dtype == half.get(cut.id).dtype == np.float32
        assert np.allclose(full.get(cut.id), half.get(cut.id), rtol=1e-3, atol=1e-6)


def test_a_batch_is_padded_single_precision_with_the_frames_of_each(
    tmp_path: Path, cuts: list[Any]
) -> None:
    features = FeatureStore(tmp_path, StoreConfig()).features(Pass(Moments()), "d1", "train", cuts)
    names = [cuts[5].id, cuts[0].id, cuts[2].id]
    padded, lengths = features.batch(names)
    assert padded.dtype == torch.float32
    assert lengths.tolist() == [features.get(name).shape[1] for name in names]
    assert padded.shape == (2, 3, max(lengths.tolist()), 3)
    for b, (length, name) in enumerate(zip(lengths.tolist(), names, strict=True)):
        assert np.array_equal(padded[:, b, :length].numpy(), features.get(name))
        assert not padded[:, b, length:].any()


# ---- means ----


@pytest.mark.usefixtures("small_batches")
def test_means_of_whole_utterances_are_the_means_of_their_frames(
    tmp_path: Path, cuts: list[Any]
) -> None:
    features = FeatureStore(tmp_path, FP32).features(Pass(Moments(), WHOLE), "d1", "train", cuts)
    for cut in cuts:
        expected = by_hand(audio.read(cut)).mean(1)
        assert features.get(cut.id).shape == (2, 1, 3)
        assert np.allclose(features.get(cut.id)[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("small_batches")
def test_means_of_crops_are_the_means_of_frames_of_pieces_of_the_utterance(
    tmp_path: Path, cuts: list[Any]
) -> None:
    crops = Crops(seconds=0.5, count=3, seed=4)
    features = FeatureStore(tmp_path, FP32).features(Pass(Moments(), crops), "d1", "train", cuts)
    for cut in cuts[:3]:
        samples = audio.read(cut)
        # every start that a crop of 8,000 samples may have: (S, 25 frames, 320)
        windows = np.lib.stride_tricks.sliding_window_view(samples, 8_000).reshape(-1, 25, 320)
        pieces = np.stack([windows.mean(2), windows.max(2), windows.min(2)], axis=2).mean(
            1
        )  # (S, 3)
        found = features.get(cut.id)
        assert found.shape == (2, 3, 3)
        for mean in found.transpose(1, 0, 2):
            assert np.abs(pieces - mean[0]).max(1).min() < 1e-6
            assert np.allclose(mean[1], 2 * mean[0], rtol=0, atol=1e-6)


def test_crops_depend_on_seed_and_utterance_alone(tmp_path: Path, cuts: list[Any]) -> None:
    def crop(folder: str, seed: int, members: Sequence[Any]) -> dict[str, np.ndarray]:
        crops = Crops(seconds=0.5, count=4, seed=seed)
        features = FeatureStore(tmp_path / folder, FP32).features(
            Pass(Moments(), crops), "d1", "train", members
        )
        return {cut.id: np.array(features.get(cut.id)) for cut in members}

    first, again, other = crop("a", 0, cuts), crop("b", 0, cuts[3:9]), crop("c", 1, cuts)
    for cut in cuts:
        assert (
            len({row.tobytes() for row in first[cut.id][0]}) >= 3
        )  # two of thousands of places may coincide
        assert not np.array_equal(first[cut.id], other[cut.id])
    for cut in cuts[3:9]:
        assert np.allclose(first[cut.id], again[cut.id], rtol=0, atol=1e-7)


def test_an_utterance_shorter_than_the_crop_is_taken_whole_every_time(
    tmp_path: Path, cuts: list[Any]
) -> None:
    features = FeatureStore(tmp_path, FP32).features(
        Pass(Moments(), Crops(seconds=60, count=2)), "d1", "train", cuts
    )
    for cut in cuts:
        expected = by_hand(audio.read(cut)).mean(1, keepdims=True)
        assert features.get(cut.id).shape == (2, 2, 3)
        assert np.allclose(features.get(cut.id), expected, rtol=0, atol=1e-6)


# ---- the limit ----


def need(cuts: list[Any], itemsize: int = 4) -> int:
    """Return the bytes of the cuts' frames as the store reckons them beforehand."""
    return int(sum(cut.duration for cut in cuts) * 50) * 2 * 3 * itemsize


def test_features_that_never_fit_are_computed_on_the_fly_and_the_cost_is_logged(
    tmp_path: Path, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    upstream = Moments()
    features = FeatureStore(tmp_path, StoreConfig(limit_gb=1e-5)).features(
        Pass(upstream), "d1", "train", cuts
    )
    assert isinstance(features, LiveFeatures)
    assert upstream.calls == 0
    hours = round(sum(cut.duration for cut in cuts) / 3600, 4)
    wanted = need(cuts, 2) / GIB
    (said,) = caplog.messages
    assert said.startswith(
        f"train: features need {wanted:.3g} GiB; store.limit_gb allows 1e-05 and the disk has "
    )
    assert said.endswith(
        f" free; they are computed on the fly: fake processes {hours:.3g} h of audio again in every "
        f"epoch, once for all learning rates; to store them: store.limit_gb={wanted * 1.05:.3g}, "
        "or another --store"
    )
    assert files(tmp_path) == []


def test_features_that_the_disk_does_not_hold_are_computed_on_the_fly(
    tmp_path: Path,
    cuts: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("mt4ssl_bench.features.store.shutil.disk_usage", lambda _: usage)
    assert isinstance(
        FeatureStore(tmp_path, FP32).features(Pass(Moments()), "d1", "train", cuts), LiveFeatures
    )
    assert "the disk has 9.31e-07 free" in caplog.text


@pytest.mark.parametrize("crops", [None, Crops(seconds=0.5, count=3, seed=1)])
def test_features_on_the_fly_are_the_stored_ones_at_one_pass_per_batch(
    tmp_path: Path, cuts: list[Any], crops: Crops | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mt4ssl_bench.features.forward_pass.BATCH_SECONDS", 80.0
    )  # all four utterances fit into one batch

    def get(limit_gb: float, upstream: Moments) -> Any:
        store = FeatureStore(
            tmp_path / str(limit_gb), StoreConfig(precision="fp32", limit_gb=limit_gb)
        )
        return store.features(Pass(upstream, crops), "d1", "train", cuts)

    upstream = Moments()
    stored, live = get(1, Moments()), get(0, upstream)
    assert (live.layers, live.dim) == (stored.layers, stored.dim)
    names = [cuts[i].id for i in (7, 0, 3, 11)]
    for expected, found in zip(stored.batch(names), live.batch(names), strict=True):
        assert torch.allclose(expected, found, rtol=0, atol=1e-7)
    assert (upstream.calls, upstream.utterances) == (1, 4 * (crops.count if crops else 1))
    assert np.allclose(stored.get(names[1]), live.get(names[1]), rtol=0, atol=1e-7)


def fill(root: Path, cuts: list[Any], names: Sequence[str]) -> None:
    """Store an entry for each fingerprint, the first one unused for longest."""
    for age, name in enumerate(names):
        FeatureStore(root, FP32).features(Pass(Moments(name)), "d1", "train", cuts, corpus="tones")
        os.utime(next((root / f"{name}-d1-fp32").glob("*.index")), (1_000 + age, 1_000 + age))


def kept(root: Path) -> set[str]:
    return {folder.name.split("-")[0] for folder in root.glob("[!.]*")}


def test_the_entries_unused_for_longest_go_first_and_only_as_many_as_must(
    tmp_path: Path, cuts: list[Any]
) -> None:
    fill(tmp_path, cuts, ["a", "b", "c"])
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 1_000) / GIB)
    FeatureStore(tmp_path, limit).features(Pass(Moments("new")), "d1", "train", cuts)
    assert kept(tmp_path) == {"b", "c", "new"}


def test_using_an_entry_makes_it_young_again(tmp_path: Path, cuts: list[Any]) -> None:
    fill(tmp_path, cuts, ["a", "b", "c"])
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 1_000) / GIB)
    FeatureStore(tmp_path, limit).features(Pass(Moments("a", fail_at=1)), "d1", "train", cuts)
    FeatureStore(tmp_path, limit).features(Pass(Moments("new")), "d1", "train", cuts)
    assert kept(tmp_path) == {"a", "c", "new"}


def test_room_that_older_entries_take_counts_as_free(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, cuts, ["a"])
    monkeypatch.setattr(
        "mt4ssl_bench.features.store.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    limit = StoreConfig(precision="fp32", limit_gb=(size(tmp_path) + 1_000) / GIB)
    FeatureStore(tmp_path, limit).features(Pass(Moments("new")), "d1", "train", cuts)
    assert kept(tmp_path) == {"new"}


def test_nothing_is_deleted_for_features_that_will_not_fit_all_the_same(
    tmp_path: Path, cuts: list[Any]
) -> None:
    fill(tmp_path, cuts[:6], ["a", "b"])
    limit = StoreConfig(precision="fp32", limit_gb=need(cuts) * 0.9 / GIB)
    assert isinstance(
        FeatureStore(tmp_path, limit).features(Pass(Moments("new")), "d1", "train", cuts),
        LiveFeatures,
    )
    assert kept(tmp_path) == {"a", "b"}


def test_features_of_the_same_model_and_corpus_are_never_deleted_for_one_another(
    tmp_path: Path, cuts: list[Any]
) -> None:
    fill(tmp_path, cuts, ["a"])
    limit = StoreConfig(precision="fp32", limit_gb=size(tmp_path) * 1.5 / GIB)
    assert isinstance(
        FeatureStore(tmp_path, limit).features(Pass(Moments("a")), "d1", "valid", cuts),
        LiveFeatures,
    )
    assert [name.split(".")[0] for name in files(tmp_path)] == ["train", "train"]


# ---- failures ----


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_a_broken_layer_is_named_and_no_precision_is_advised(
    tmp_path: Path, cuts: list[Any], precision: Any
) -> None:
    message = r"hidden state 0 of 0-1: the largest finite one is 3e\+37 .1 more"
    with pytest.raises(UpstreamError, match=message) as error:
        FeatureStore(tmp_path, StoreConfig(precision=precision)).features(
            Pass(Moments(spoil=3e37)), "d1", "train", cuts
        )
    assert "bf16" not in str(error.value)


def test_entries_of_an_earlier_fingerprint_are_used_only_where_it_was_sufficient(
    tmp_path: Path, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path, FP32)
    store.features(Pass(Moments("old")), "d1", "train", cuts)
    same, other = Moments("v2-new"), Moments("v2-other")
    same.former, other.insufficient = ("old",), ("old",)  # type: ignore[attr-defined]
    found = store.features(Pass(same), "d1", "train", cuts)
    assert same.calls == 0
    assert np.array_equal(found.get(cuts[0].id), by_hand(audio.read(cuts[0])))
    store.features(Pass(other), "d1", "train", cuts)
    assert other.calls > 0
    assert "its fingerprint old did not cover all settings of fake" in caplog.text
    assert {entry.header.fingerprint for entry in entries(tmp_path)} == {"old", "v2-other"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_naming_the_utterance(
    tmp_path: Path, cuts: list[Any], value: float
) -> None:
    class Spoilt(Moments):
        def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
            found = super().extract(waveforms, lengths)
            rows = (lengths == bad).nonzero()
            if len(rows):  # as batch normalisation would, one bad utterance spoils every other one
                found.layers[:] = value
            return found

    bad = len(audio.read(cuts[4]))
    message = rf"^upstream 'fake': broken on utterance '{cuts[4].id}' \(.*hidden state 0 of 0-1: .* NaN or inf"
    for crops in (None, WHOLE):
        store = FeatureStore(tmp_path, FP32)
        with pytest.raises(UpstreamError, match=message):
            store.features(Pass(Spoilt(), crops), "d1", "train", cuts)
    assert not [entry for entry in entries(tmp_path) if entry.whole]


def test_values_beyond_half_precision_are_refused_with_what_to_set(
    tmp_path: Path, cuts: list[Any]
) -> None:
    with pytest.raises(
        UpstreamError,
        match=r"too large for fp16 \(hidden state 1 of 0-1 reaches 1\.4e\+05.* "
        r"store\.precision=bf16",
    ):
        FeatureStore(tmp_path, StoreConfig()).features(
            Pass(Moments(spoil=7e4)), "d1", "train", cuts
        )
    for precision in ("bf16", "fp32"):
        store = FeatureStore(tmp_path, StoreConfig(precision=precision))
        features = store.features(Pass(Moments(spoil=7e4)), "d1", "train", cuts)
        assert max(features.get(cut.id).max() for cut in cuts) == pytest.approx(140_000, rel=2**-8)


@pytest.mark.usefixtures("small_batches")
def test_an_interrupted_pass_continues_and_ends_with_the_very_values_of_a_whole_one(
    tmp_path: Path, cuts: list[Any]
) -> None:
    whole = FeatureStore(tmp_path / "whole", FP32).features(Pass(Moments()), "d1", "train", cuts)
    store = FeatureStore(tmp_path / "cut", FP32)
    with pytest.raises(KeyboardInterrupt):
        store.features(Pass(Moments(fail_at=3)), "d1", "train", cuts)
    (unfinished,) = entries(tmp_path / "cut")
    assert not unfinished.whole
    second = Moments()
    features = store.features(Pass(second), "d1", "train", cuts)
    assert 0 < second.utterances < 18
    for cut in cuts:
        assert np.array_equal(features.get(cut.id), whole.get(cut.id))
    assert [file.split(".")[-1] for file in files(tmp_path / "cut")] == ["bin", "index"]


SLOW = """
import sys
from pathlib import Path
from fakes import Moments
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.features import forward_pass
from mt4ssl_bench.features.store import FeatureStore, StoreConfig

forward_pass.BATCH_SECONDS = 6.0  # as small_batches
cuts = list(Corpus.open(sys.argv[1]).cuts("train"))
slow = forward_pass.Pass(Moments(pause=float(sys.argv[3])))
FeatureStore(Path(sys.argv[2]), StoreConfig(precision="fp32")).features(slow, "d1", "train", cuts)
"""


def start(corpus: Corpus, root: Path, pause: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", SLOW, corpus.root, root, str(pause)]
    return subprocess.Popen(command, env=environment())


def await_lines(root: Path, count: int) -> None:
    """Wait until a journal has `count` lines."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(
            path.read_text(encoding="utf-8").count("\n") >= count
            for path in root.glob("*/*.partial")
        ):
            return
        time.sleep(0.02)
    raise AssertionError("no journal")


@pytest.mark.usefixtures("small_batches")
def test_a_killed_pass_never_yields_a_part_and_its_torn_end_is_made_again(
    tmp_path: Path, corpus: Corpus, cuts: list[Any]
) -> None:
    process = start(corpus, tmp_path, 0.3)
    await_lines(tmp_path, 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [entry.whole for entry in entries(tmp_path)] == [False]
    values, journal = next(tmp_path.glob("*/*.bin")), next(tmp_path.glob("*/*.partial"))
    with values.open(
        "r+b"
    ) as file:  # what a power failure may leave: a line whose values did not reach the disk
        file.truncate(values.stat().st_size - 10)
    with journal.open("a", encoding="utf-8") as file:
        file.write('["s0-')  # and half a line
    second = Moments()
    features = FeatureStore(tmp_path, FP32).features(Pass(second), "d1", "train", cuts)
    assert 0 < second.utterances < 18
    assert len(features) == 18
    for cut in cuts:
        assert np.allclose(features.get(cut.id), by_hand(audio.read(cut)), rtol=0, atol=1e-7)


def test_two_processes_that_need_the_same_features_make_them_once(
    tmp_path: Path, corpus: Corpus, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    process = start(corpus, tmp_path, 0.1)
    await_lines(tmp_path, 2)
    assert clear(tmp_path) == [], "what is being made is not cleared"
    second = Moments()
    features = FeatureStore(tmp_path, FP32).features(Pass(second), "d1", "train", cuts)
    assert process.wait() == 0
    assert second.utterances == 0
    assert "another process is making them; waiting for it" in caplog.text
    for cut in cuts:
        assert np.allclose(features.get(cut.id), by_hand(audio.read(cut)), rtol=0, atol=1e-7)


def test_values_without_an_index_count_for_nothing(tmp_path: Path, cuts: list[Any]) -> None:
    store, upstream = FeatureStore(tmp_path, FP32), Moments()
    store.features(Pass(upstream), "d1", "train", cuts)
    next(tmp_path.glob("*/*.index")).unlink()
    before = upstream.utterances
    assert len(store.features(Pass(upstream), "d1", "train", cuts)) == 18
    assert upstream.utterances == before + 18


def test_a_full_disk_is_reported_with_what_to_do_and_what_was_made_is_kept(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mt4ssl_bench.features.file.write_index", full)
    with pytest.raises(
        BenchError, match=r"No space left on device.*; free disk space or choose another --store"
    ):
        FeatureStore(tmp_path, FP32).features(Pass(Moments()), "d1", "train", cuts)
    monkeypatch.undo()
    upstream = Moments(fail_at=1)
    assert len(FeatureStore(tmp_path, FP32).features(Pass(upstream), "d1", "train", cuts)) == 18
    assert upstream.utterances == 0


def test_a_flipped_bit_costs_one_batch_a_second_pass_and_the_file_is_mended(
    tmp_path: Path, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path, FP32)
    store.features(Pass(Moments()), "d1", "train", cuts)
    values = next(tmp_path.glob("*/*.bin"))
    sound = values.read_bytes()
    values.write_bytes(sound[:1000] + bytes([sound[1000] ^ 64]) + sound[1001:])
    upstream = Moments()
    features = store.features(Pass(upstream), "d1", "train", cuts)
    for cut in cuts:
        assert np.allclose(features.get(cut.id), by_hand(audio.read(cut)), rtol=0, atol=1e-7)
    assert 0 < upstream.utterances < len(cuts)
    assert "is damaged on disk; it is computed again" in caplog.text
    again = Moments(fail_at=1)
    features = store.features(Pass(again), "d1", "train", cuts)
    for cut in cuts:
        assert np.allclose(features.get(cut.id), by_hand(audio.read(cut)), rtol=0, atol=1e-7)


def test_a_mended_file_holds_the_very_bits_that_it_held_before(
    tmp_path: Path, cuts: list[Any]
) -> None:
    upstream = load_upstream(
        f"random:{Path(__file__).parents[1] / 'fixtures' / 'toy.yaml'}"
    )  # a batch's shapes show in it
    store = FeatureStore(tmp_path, FP32)
    store.features(Pass(upstream), "d1", "train", cuts)
    values = next(tmp_path.glob("*/*.bin"))
    sound = values.read_bytes()
    for place in (1000, len(sound) // 2, len(sound) - 1000):
        values.write_bytes(sound[:place] + bytes([sound[place] ^ 64]) + sound[place + 1 :])
        features = store.features(Pass(upstream), "d1", "train", cuts)
        for cut in cuts:
            features.get(cut.id)
        assert values.read_bytes() == sound


@pytest.mark.parametrize(
    "damage", ["short values", "no values", "index cut short", "index changed"]
)
def test_a_file_that_does_not_fit_its_index_is_made_again_with_a_warning(
    tmp_path: Path, cuts: list[Any], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore(tmp_path, FP32)
    store.features(Pass(Moments()), "d1", "train", cuts)
    values, index = next(tmp_path.glob("*/*.bin")), next(tmp_path.glob("*/*.index"))
    text = index.read_text(encoding="utf-8")
    if damage == "short values":
        values.write_bytes(values.read_bytes()[:-8])
    elif damage == "no values":
        values.unlink()
    elif damage == "index cut short":
        index.write_text(text[:-9], encoding="utf-8")
    else:
        index.write_text(text.replace(cuts[0].id, "xx-x"), encoding="utf-8")
    upstream = Moments()
    features = store.features(Pass(upstream), "d1", "train", cuts)
    assert upstream.utterances == 18
    assert "; computing it again" in caplog.text
    assert np.allclose(features.get(cuts[0].id), by_hand(audio.read(cuts[0])), rtol=0, atol=1e-7)


# ---- what people see of it ----


def test_entries_name_their_model_and_clear_takes_one_models_or_old_ones(
    tmp_path: Path, cuts: list[Any]
) -> None:
    fill(tmp_path, cuts, ["a", "b", "c"])
    FeatureStore(tmp_path, StoreConfig()).features(
        Pass(Moments("d"), Crops(seconds=2)), "d2", "valid", cuts[:5], corpus="other"
    )
    found = {entry.header.fingerprint: entry for entry in entries(tmp_path)}
    assert sorted(found) == ["a", "b", "c", "d"]
    assert sum(entry.bytes for entry in found.values()) == size(tmp_path)
    header = found["d"].header
    assert (header.upstream, header.corpus, header.split, header.kind, header.precision, header.utterances) == (
        "fake", "other", "valid", "means-2s-1-0", "fp16", 5,
    )  # fmt: skip
    assert header.hours == pytest.approx(sum(cut.duration for cut in cuts[:5]) / 3600, abs=1e-4)
    assert found["b"].used == 1_001
    assert [entry.header.fingerprint for entry in clear(tmp_path, upstream="b")] == ["b"]
    assert {entry.header.fingerprint for entry in clear(tmp_path, older_than=1)} == {"a", "c"}
    assert kept(tmp_path) == {"d"}
    assert [entry.header.fingerprint for entry in clear(tmp_path, upstream="fake")] == ["d"]
    assert kept(tmp_path) == set()


def test_features_that_another_process_deletes_stay_readable(
    tmp_path: Path, cuts: list[Any]
) -> None:
    features = FeatureStore(tmp_path, FP32).features(Pass(Moments()), "d1", "train", cuts)
    assert isinstance(features, StoredFeatures)
    assert len(clear(tmp_path)) == 1
    assert np.allclose(features.get(cuts[3].id), by_hand(audio.read(cuts[3])), rtol=0, atol=1e-7)
