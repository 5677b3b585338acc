"""Live features: rounded as stored ones, only the crop that is used, and chosen by measurement."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders import TOY
from fakes import Mirrored, Moments
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import ConfigError, UpstreamError
from mt4ssl_bench.features import costs, store
from mt4ssl_bench.features.costs import Costs, Speeds, measure
from mt4ssl_bench.features.crops import Crops
from mt4ssl_bench.features.file import FeatureSet, StoredFeatures
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.live import LiveFeatures
from mt4ssl_bench.features.precision import Precision, decode, encode, rounded
from mt4ssl_bench.features.store import GIB, FeatureStore, StoreConfig, header_of

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


@pytest.fixture(scope="module")
def cuts(corpus: Corpus) -> list[Any]:
    return list(corpus.cuts("train"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_live_values_have_the_bits_of_stored_ones(precision: Precision) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40, 16, generator=generator) * 10 ** torch.linspace(-9, 3, 40)[:, None]
    x[:, 5] = 0
    stored = decode(encode(x.numpy(), precision), precision)
    assert rounded(x, precision).numpy().tobytes() == np.ascontiguousarray(stored).tobytes()


@pytest.mark.parametrize("stored", [True, False])
def test_a_stream_is_its_batches_and_reads_one_crop_of_each(
    tmp_path: Path, cuts: list[Any], *, stored: bool
) -> None:
    model, crops = Moments(), Crops(seconds=0.5, count=3, seed=1)
    whole = FeatureStore(tmp_path, StoreConfig(precision="fp32"))
    expected = whole.features(Pass(model, crops), "d", "train", cuts)
    before, features = model.utterances, expected
    if not stored:
        features = LiveFeatures(Pass(model, crops), cuts, "fp32")
    names = [[cuts[i].id for i in part] for part in ((0, 4, 4), (7, 2, 9), (1, 3, 5))]
    numbers = iter([[2, 0, 1], [1, 1, 0], [0, 2, 2]])

    def draw(utterances: int, count: int) -> Tensor:
        assert (utterances, count) == (3, 3)
        return torch.tensor(next(numbers))

    seen = list(features.stream(names, "cpu", draw))
    for (x, lengths), own, picked in zip(
        seen, names, [[2, 0, 1], [1, 1, 0], [0, 2, 2]], strict=True
    ):
        assert lengths.tolist() == [1, 1, 1]
        means, _ = expected.batch(own)
        wanted = torch.stack([means[:, b, k] for b, k in enumerate(picked)], dim=1)[:, :, None]
        torch.testing.assert_close(x, wanted, atol=1e-7, rtol=0)
    assert model.utterances - before == (0 if stored else 9), "three crops of nine would be 27"


def test_frames_are_streamed_as_they_are_batched(cuts: list[Any]) -> None:
    features: FeatureSet = LiveFeatures(Pass(load_upstream(f"random:{TOY}")), cuts, "fp16")
    names = [[cut.id for cut in cuts[i : i + 4]] for i in (0, 4, 8)]
    for (x, lengths), own in zip(features.stream(names, "cpu"), names, strict=True):
        again, counts = features.batch(own)
        assert lengths.equal(counts)
        torch.testing.assert_close(x, again, atol=1e-6, rtol=1e-3)


class Far(Moments):
    """On a device that is asked only now and then."""

    device = "cuda"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(float("nan"), "broken on utterance"), (1e5, "are too large for fp16")],
)
def test_values_that_are_not_finite_are_found_without_asking_after_each_batch(
    cuts: list[Any], spoil: float, message: str
) -> None:
    features = LiveFeatures(Pass(Far(spoil=spoil)), cuts, "fp16")
    stream = features.stream([[cut.id] for cut in cuts], "cpu")
    for _ in cuts:
        next(stream)
    with pytest.raises(UpstreamError, match=message):  # the epoch is shorter than LOOK_EVERY
        next(stream)


@pytest.mark.parametrize(("live", "stored"), [(1.0, 1.0), (1.0, 0.01)])
def test_the_cheaper_way_is_taken_and_said(
    tmp_path: Path,
    cuts: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    live: float,
    stored: float,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(costs, "MEASURED", 0)
    speeds = Speeds(live=live, write=stored, read=stored)
    monkeypatch.setattr(costs, "measure", lambda *_, **__: speeds)
    features = FeatureStore(tmp_path, StoreConfig()).features(
        Pass(Moments()), "d", "train", cuts, readings=2
    )
    cheaper = isinstance(features, LiveFeatures)
    assert cheaper == (2 * live < 0.8 * (live + 3 * stored)) == (stored == 1.0)
    way = "computed on the fly" if cheaper else "stored"
    (line,) = [each for each in caplog.messages if "readings" in each]
    assert line.startswith(f"train: features of fake are {way}: 2 readings take about ")
    again = FeatureStore(tmp_path, StoreConfig()).features(
        Pass(Moments()), "d", "train", cuts, readings=2
    )
    assert isinstance(again, LiveFeatures) == cheaper, "what is stored is read"


def test_small_features_are_stored_and_not_measured(
    tmp_path: Path, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "measure", None)
    features = FeatureStore(tmp_path, StoreConfig()).features(
        Pass(Moments()), "d", "train", cuts, readings=1
    )
    assert isinstance(features, StoredFeatures)


@pytest.mark.parametrize("cold", [True, False])
def test_a_measurement_reads_and_writes_what_it_says_and_leaves_nothing(
    tmp_path: Path, cuts: list[Any], *, cold: bool
) -> None:
    forward = Pass(Moments(pause=0.05))
    header = header_of(forward, cuts, "d", "train", "fp16", "")
    speeds = measure(forward, cuts, header, tmp_path, cold=cold)
    seconds = sum(cut.duration for cut in cuts)  # less than PROBE_SECONDS: all
    assert speeds.live * seconds >= 0.05
    assert min(speeds.write, speeds.read) > 0
    assert not list(tmp_path.iterdir())
    costs = Costs.of(speeds, 100.0, 3.0)
    assert costs.live == pytest.approx(300 * speeds.live)
    assert costs.stored == pytest.approx(100 * (speeds.live + speeds.write + 3 * speeds.read))


@pytest.mark.parametrize(("share", "raised"), [(0.95, True), (0.85, False)])
def test_a_limit_that_is_missed_by_a_tenth_is_raised(
    tmp_path: Path,
    cuts: list[Any],
    caplog: pytest.LogCaptureFixture,
    share: float,
    *,
    raised: bool,
) -> None:
    caplog.set_level(logging.INFO)
    forward = Pass(Moments())
    need = forward.rows(cuts) * header_of(forward, cuts, "d", "train", "fp32", "").row_bytes
    config = StoreConfig(precision="fp32", limit_gb=need * share / GIB)
    features = FeatureStore(tmp_path, config).features(forward, "d", "train", cuts)
    assert isinstance(features, StoredFeatures) == raised
    assert ("above store.limit_gb=" in caplog.text) == raised
    assert config.precision == "fp32", "a smaller one is proposed, never taken"
    assert ("store.precision=int8" in caplog.text) != raised


def test_a_pass_in_another_arithmetic_is_another_entry(tmp_path: Path, cuts: list[Any]) -> None:
    model = Mirrored()
    sets = [
        FeatureStore(tmp_path, StoreConfig(precision="fp32")).features(
            Pass(model, precision=precision), "d", "train", cuts
        )
        for precision in ("fp32", "bf16")
    ]
    exact, coarse = (torch.from_numpy(each.get(cuts[0].id)) for each in sets)
    assert coarse[0].equal(exact[0].bfloat16().float())
    assert not coarse[0].equal(exact[0])
    kinds = {entry.header.kind for entry in store.entries(tmp_path)}
    assert kinds == {"frames", "frames-bf16"}
    with pytest.raises(ConfigError, match="pass_precision=tf32: expected a CUDA device, got cpu"):
        Pass(model, precision="tf32")
