"""Heads on a frozen upstream: the best on valid is kept; norms explain the weights of layers."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders import recipe
from fakes import Spectrum
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.evaluate import evaluate
from mt4ssl_bench.downstream.training import fold_heads
from mt4ssl_bench.downstream.training.fold_heads import NORMED, layer_norms
from mt4ssl_bench.downstream.training.sweep import Split
from mt4ssl_bench.encoders import load
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.forward_pass import Values
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.training.fit import Fit


class Levels(FeatureSet):
    """Two frames per utterance: constant vectors of the utterance's number, and alternating +10,
    -10.
    """

    layers, dim = 2, 4

    def __init__(self) -> None:
        self.read: list[str] = []

    def rows(
        self,
        names: Sequence[str],
        crops: Sequence[int] | None = None,  # noqa: ARG002
    ) -> list[Values]:
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


def test_the_head_that_is_best_on_valid_is_kept_and_not_trained_again(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_upstream", lambda name, **_: Spectrum(name))
    keys = ["sweep=[1e-1,1e-5]", "steps=60", "validate_every=30"]

    def run() -> Result:
        (result,) = evaluate(
            ["mine"], [recipe("phoneme")], corpus.root, out=tmp_path, overrides=keys, device="cpu"
        ).results
        return result

    first = run()
    valid = {trial["lr"]: trial["valid"] for trial in first.sweep}
    assert valid[1e-1] < valid[1e-5]
    assert [trial["lr"] for trial in first.sweep if trial["chosen"]] == [1e-1]
    next(tmp_path.glob("*.json")).unlink()  # as if killed between training and record
    monkeypatch.setattr(Fit, "_update", None)
    again = run()
    assert again.metrics == first.metrics
    assert again.sweep == first.sweep


@pytest.mark.parametrize(
    ("identity", "known", "needed", "frames"),
    [("live", 9, 9, 8), ("live", 9, 8, 8), ("live", 9, 5, 9), ("v2-0", 9, 9, 9)],
)
def test_utterances_are_left_out_by_true_counts_where_one_frame_decides(
    identity: str, known: int, needed: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live features know a count from the duration, which may be one more than there are."""
    monkeypatch.setattr(fold_heads, "learnable", lambda *given: given[2](one))
    one = SimpleNamespace(id="a")
    features = SimpleNamespace(
        identity=identity, count=lambda _: known, get=lambda _: np.zeros((2, 8, 4))
    )
    task = SimpleNamespace(pooled=False, frames_needed=lambda _: needed)
    heads = SimpleNamespace(
        features=lambda _: features, fold=SimpleNamespace(task=task), job=SimpleNamespace()
    )
    assert fold_heads.FoldHeads.learnt.func(heads) == frames  # type: ignore[arg-type]
