"""A softmax weight means little without the norm of what it weighs: both are in the record."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from mt4ssl_bench.downstream.training.frozen import NORMED, layer_norms
from mt4ssl_bench.downstream.training.sweep import Split
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.forward_pass import Values


class Levels(FeatureSet):
    """Two frames per utterance: constant vectors of the utterance's number, and alternating +10,
    -10.
    """

    layers, dim = 2, 4

    def __init__(self) -> None:
        self.read: list[str] = []

    def rows(self, names: Sequence[str]) -> list[Values]:
        self.read += names
        swing = np.array([10, -10, 10, -10])
        return [np.array([[[int(name)] * 4] * 2, [swing] * 2]).astype(np.float32) for name in names]

    def count(self, name: str) -> int:  # noqa: ARG002
        return 2


def split(number: int) -> tuple[Split, Levels]:
    features = Levels()
    cuts = [SimpleNamespace(id=str(index)) for index in range(number)]
    return Split(cuts, features, pooled=False, device="cpu"), features


def test_norms_are_means_over_frames_of_the_l2_norm() -> None:
    members, _ = split(5)
    assert layer_norms(members, normalized=False) == pytest.approx(
        [4.0, 20.0]
    )  # 2 * (0 + ... + 4) / 5


def test_norms_are_those_after_the_heads_own_normalization() -> None:
    members, _ = split(5)
    assert layer_norms(members, normalized=True) == pytest.approx([0.0, 2.0], abs=1e-4)


def test_a_large_split_is_sampled_evenly() -> None:
    members, features = split(1000)
    layer_norms(members, normalized=False)
    assert features.read == [str(index) for index in range(0, 1000, 20)]
    assert len(features.read) <= NORMED
