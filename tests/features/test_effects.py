"""Audio effects: they reach the upstream, and features with other effects never share an entry."""

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
from mt4ssl_bench.data.effects import Effect, Gain
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.store import FeatureStore, LiveFeatures, StoreConfig, entries

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
