"""Audio effects: they reach the upstream, and features with other effects never share an entry."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.effects import Effect, Gain, TrimSilence, lengths_after
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.errors import ConfigError, UpstreamError
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.store import FeatureStore, StoreConfig, entries

OLD = Path(__file__).parents[1] / "fixtures" / "store_4d85cb0"  # made by that revision
FP32 = StoreConfig(precision="fp32")


class Extremes:
    """Two layers of (mean, largest, smallest sample) per 320 samples, the second one doubled."""

    name, fingerprint = "fake", "f00d"
    num_layers, dim, stride, parameters = 2, 3, 320, 0

    def __init__(self) -> None:
        self.calls = 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        self.calls += 1
        frames = waveforms.unfold(1, self.stride, self.stride)
        first = torch.stack([frames.mean(-1), frames.amax(-1), frames.amin(-1)], dim=-1)
        return Features(torch.stack([first, 2 * first]), lengths // self.stride)


@dataclass(frozen=True)
class Second:
    """A second half: an effect that changes the length."""

    key: str = "second_half"

    def __call__(self, samples: audio.Samples) -> audio.Samples:
        return samples[len(samples) // 2 :]


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("valid"))


def store(
    root: Path, cuts: list[Any], *effects: Effect, crops: Crops | None = None, limit: float = 1.0
) -> tuple[dict[str, np.ndarray], int]:
    """Return the features and the number of passes that they cost."""
    upstream = Extremes()
    config = StoreConfig(precision="fp32", limit_gb=limit)
    features = FeatureStore(root, config).features(
        Pass(upstream, crops, effects), "d1", "valid", cuts
    )
    assert isinstance(features, LiveFeatures) == (limit == 0)
    return {cut.id: features.get(cut.id) for cut in cuts}, upstream.calls


def by_hand(samples: np.ndarray) -> np.ndarray:
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    first = np.stack([frames.mean(1), frames.max(1), frames.min(1)], axis=1)
    return np.stack([first, 2 * first])


@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["stored", "live"])
def test_effects_are_applied_in_order_to_the_whole_audio(
    tmp_path: Path, cuts: list[Any], limit: float
) -> None:
    features, _ = store(tmp_path, cuts, Gain(-3), Second(), limit=limit)
    for cut in cuts:
        samples = audio.read(cut)
        expected = by_hand(samples[len(samples) // 2 :] * 10 ** (-3 / 20))
        assert np.allclose(features[cut.id], expected, rtol=0, atol=1e-6)


def test_crops_are_drawn_after_effects(tmp_path: Path, cuts: list[Any]) -> None:
    plain, _ = store(tmp_path, cuts, crops=Crops(seconds=0.5, count=2))
    quiet, _ = store(tmp_path, cuts, Gain(-3), crops=Crops(seconds=0.5, count=2))
    for cut in cuts:
        assert np.allclose(quiet[cut.id], plain[cut.id] * 10 ** (-3 / 20), rtol=0, atol=1e-6)


def test_equal_effects_share_an_entry_and_others_never_do(tmp_path: Path, cuts: list[Any]) -> None:
    for effects in ((), (Gain(-3),), (Gain(-3.5),), (Gain(-3), Second()), (Second(), Gain(-3))):
        assert store(tmp_path, cuts, *effects)[1] > 0, effects
        assert store(tmp_path, cuts, *effects)[1] == 0, "a second request costs no pass"
    kinds = [entry.header.kind for entry in entries(tmp_path)]
    assert len(set(kinds)) == 5
    assert "frames+gain-3.0dB+second_half" in kinds
    assert {
        entry.file.name.partition(".")[2].rpartition("-")[0] for entry in entries(tmp_path)
    } == (set(kinds))


def test_an_entry_of_an_earlier_revision_is_that_of_no_effects(
    tmp_path: Path, cuts: list[Any]
) -> None:
    for crops, kind in ((None, "frames"), (Crops(seconds=0.5, count=2), "means-0.5s-2-0")):
        forward = Pass(upstream := Extremes(), crops)
        features = FeatureStore(OLD, StoreConfig()).features(
            forward, "d1", "valid", cuts, corpus="tones"
        )
        assert upstream.calls == 0
        (made,) = (entry for entry in entries(OLD) if entry.header.kind == kind)
        again = FeatureStore(tmp_path, StoreConfig()).features(
            forward, "d1", "valid", cuts, corpus="tones"
        )
        for suffix in (".bin", ".index"):
            old = made.file.with_suffix(suffix)
            assert (tmp_path / old.relative_to(OLD)).read_bytes() == old.read_bytes()
        for cut in cuts:
            assert np.array_equal(features.get(cut.id), again.get(cut.id))


def test_a_key_that_no_file_name_can_hold_is_refused() -> None:
    for key in ("", "a/b", "a+b", "ä"):
        with pytest.raises(ConfigError, match=re.escape(f"effect '{key}': expected a key")):
            Pass(Extremes(), effects=[Second(key)])


def test_gains_that_differ_have_keys_that_differ() -> None:
    assert Gain(-3).key == Gain(-3.0).key == "gain-3.0dB"
    assert len({Gain(value).key for value in (3, -3, -3.0000001, 0.1, 1e-9)}) == 5


def test_a_gain_leaves_its_input_and_the_type_as_they_are() -> None:
    samples = np.array([0.5, -1.0], dtype=np.float32)
    quiet = Gain(-3)(samples)
    assert quiet.dtype == np.float32
    assert quiet == pytest.approx([0.5 * 0.7079458, -0.7079458], rel=1e-6)
    assert samples.tolist() == [0.5, -1.0]


def plainly_trimmed(samples: audio.Samples) -> audio.Samples:
    """sox's silence effect as a loop over samples, with its window, its hold and its two modes."""
    window, total, at = [0] * 320, 0, 0
    trimming, hold, kept = True, list[int](), list[int]()
    for n, sample in enumerate(samples.tolist()):
        square = int(np.rint(sample * 2**31)) ** 2
        rms = int(math.sqrt((total - window[at] + square) / 320))
        above = rms / (2**31 - 1) > 0.001
        if trimming:
            hold = [*hold, n] if above else []
            if len(hold) == 1600:
                kept, hold, trimming = kept + hold, [], False
        elif above:
            kept, hold = [*kept, *hold, n], []
        else:
            hold.append(n)
            if len(hold) == 1600:
                hold, trimming = [], True
                window, total, at = [0] * 320, 0, 0
                continue
        total, window[at] = total - window[at] + square, square
        at = (at + 1) % 320
    return samples[kept if trimming else kept + hold]


def pieces(rng: np.random.Generator) -> audio.Samples:
    """Noise and constants about the threshold, of lengths about those of window and hold."""
    lengths = [1, 50, 319, 320, 321, 1279, 1280, 1281, 1599, 1600, 1601, 1919, 1920, 1921, 3000]
    parts = [np.zeros(0)]
    for _ in range(int(rng.integers(0, 7))):
        count, level = rng.choice(lengths), rng.choice([0, 0, 3e-5, 9e-4, 1e-3, 1.1e-3, 2e-3, 0.3])
        parts.append(level * (rng.standard_normal(count) if rng.random() < 0.7 else np.ones(count)))
    return np.concatenate(parts).astype(np.float32)


def test_silence_is_trimmed_as_a_loop_over_samples_does() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(60):
        samples = pieces(rng)
        before, trimmed = samples.copy(), TrimSilence()(samples)
        assert np.array_equal(trimmed, plainly_trimmed(samples))
        assert np.array_equal(samples, before)
        assert trimmed.dtype == np.float32
        shares.append(len(trimmed) / max(len(samples), 1))
    assert min(shares) == 0
    assert sum(0 < share < 1 for share in shares) > 15, "some, but not all"


def test_pauses_of_a_tenth_of_a_second_go_and_shorter_ones_stay() -> None:
    tone = np.full(4000, 0.5, dtype=np.float32)
    # a sample is loud as long as the last 320 hold one of the tone
    for pause, left in ((319 + 1599, 4000 + 1918 + 4000), (319 + 1600, 4000 + 319 + 4000)):
        samples = np.concatenate([np.zeros(800), tone, np.zeros(pause), tone]).astype(np.float32)
        assert len(TrimSilence()(samples)) == left
    assert len(TrimSilence()(np.zeros(16_000, dtype=np.float32))) == 0


@pytest.mark.speech
@pytest.mark.long
def test_silence_of_recordings_is_trimmed_as_a_loop_over_samples_does(speech: Path) -> None:
    files = sorted((speech / "speechocean762").rglob("*.flac"))[::400]
    assert files
    for file in files:
        samples = Gain(-3)(audio.read_file(file))
        assert np.array_equal(TrimSilence()(samples), plainly_trimmed(samples))


@pytest.mark.parametrize("limit", [1.0, 0.0], ids=["stored", "live"])
def test_what_an_effect_leaves_nothing_of_has_no_frames(
    tmp_path: Path, cuts: list[Any], limit: float
) -> None:
    @dataclass(frozen=True)
    class Most:
        """Nothing of the first half of the cuts, by their length, and all of the others."""

        least: int
        key: str = "most"

        def __call__(self, samples: audio.Samples) -> audio.Samples:
            return samples if len(samples) > self.least else samples[:100]

    lengths = {cut.id: len(audio.read(cut)) for cut in cuts}
    middle = sorted(lengths.values())[len(cuts) // 2 - 1]
    for _ in range(2):  # computed, then read
        features, _ = store(tmp_path, cuts, Most(middle), limit=limit)
        for name, values in features.items():
            assert values.shape[1] == (0 if lengths[name] <= middle else lengths[name] // 320)
    assert {values.shape[1] > 0 for values in features.values()} == {True, False}
    with pytest.raises(UpstreamError, match="no frame is left to average"):
        store(tmp_path, cuts, Most(middle), crops=Crops(seconds=0))


def test_lengths_are_those_after_all_effects(cuts: list[Any]) -> None:
    halves = [len(audio.read(cut)) - len(audio.read(cut)) // 2 for cut in cuts]
    assert lengths_after((Gain(-3), Second()), cuts) == halves
