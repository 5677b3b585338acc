"""Heads against s3prl's own modules carrying the same weights, on a padded batch; SpecAugment draw by draw."""

import contextlib
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mt4ssl_bench.downstream.config import RecurrentHeadConfig
from mt4ssl_bench.downstream.heads.linear import LinearHead, PooledHead
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.run_heads import run_heads
from mt4ssl_bench.downstream.heads.spec_augment import augment
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum

LAYERS, DIM, OUTPUTS = 4, 24, 9
LENGTHS = torch.tensor([31, 47, 12])  # not sorted, as batches come
CONFIG = RecurrentHeadConfig(projection=16, hidden=10, lstm_layers=2, dropout=0.2)


@pytest.fixture(scope="module")
def s3prl() -> Any:
    """s3prl.nn, whose import prints and takes some seconds."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return pytest.importorskip("s3prl.nn")


@pytest.fixture(params=[False, True], ids=["plain", "layer_norm"])
def case(request: pytest.FixtureRequest, s3prl: Any) -> tuple[Tensor, Tensor, RecurrentHeadConfig]:
    """Features (L, B, T, D), s3prl's weighted sum of them, and the config that asks for the same."""
    torch.manual_seed(0)
    features = torch.randn(LAYERS, 3, int(LENGTHS.max()), DIM)
    upstream = SimpleNamespace(
        hidden_sizes=[DIM] * LAYERS, downsample_rates=[320] * LAYERS, num_layers=LAYERS
    )
    featurizer = s3prl.Featurizer(upstream, normalize=request.param)
    featurizer.weights.data = scores()
    summed, _ = featurizer(list(features), [LENGTHS] * LAYERS)
    norm = RecurrentHeadConfig(
        projection=16, hidden=10, lstm_layers=2, dropout=0.2, layer_norm=request.param
    )
    return features, summed, norm


def scores() -> Tensor:
    return torch.linspace(-1, 2, LAYERS)


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def copy(target: nn.Module, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def test_the_weighted_sum_is_their_featurizers(
    case: tuple[Tensor, Tensor, RecurrentHeadConfig],
) -> None:
    features, summed, config = case
    ours = WeightedSum(LAYERS, layer_norm=config.layer_norm)
    ours.scores.data = scores()
    same(ours(features), summed)


@pytest.mark.parametrize(
    "outputs", [OUTPUTS, 400]
)  # the second is where both linear maps are applied in turn
def test_the_linear_head_is_their_frame_level_linear(
    s3prl: Any, case: tuple[Tensor, Tensor, RecurrentHeadConfig], outputs: int
) -> None:
    features, summed, config = case
    theirs, ours = (
        s3prl.FrameLevelLinear(DIM, outputs, hidden_size=16),
        LinearHead(LAYERS, DIM, outputs, config),
    )
    copy(ours.projection, theirs.hidden_layers[0])
    copy(ours.output, theirs.final_proj)
    ours.sum.scores.data = scores()
    logits, lengths = ours(features, LENGTHS)
    same(logits, theirs(summed, LENGTHS)[0])
    assert lengths.equal(LENGTHS)


def test_the_pooled_head_is_their_mean_pooling_linear(
    s3prl: Any, case: tuple[Tensor, Tensor, RecurrentHeadConfig]
) -> None:
    features, summed, config = case
    theirs, ours = (
        s3prl.MeanPoolingLinear(DIM, OUTPUTS, hidden_size=16),
        PooledHead(LAYERS, DIM, OUTPUTS, config),
    )
    copy(ours.projection, theirs.hidden_layers[0])
    copy(ours.output, theirs.final_proj)
    ours.sum.scores.data = scores()
    same(ours(features, LENGTHS)[0], theirs(summed, LENGTHS))


def test_the_recurrent_head_is_their_rnn_encoder(
    s3prl: Any, case: tuple[Tensor, Tensor, RecurrentHeadConfig]
) -> None:
    features, summed, config = case
    theirs = s3prl.RNNEncoder(
        DIM, OUTPUTS, "LSTM", proj_size=16, hidden_size=[10, 10], dropout=[0.2, 0.2], layer_norm=[False] * 2,
        proj=[False] * 2, sample_rate=[1, 1], sample_style="concat", bidirectional=True,
    ).eval()  # fmt: skip
    ours = RecurrentHead(LAYERS, DIM, OUTPUTS, config).eval()
    copy(ours.projection, theirs.proj)
    copy(ours.output, theirs.linear)
    for layer, (ahead, back) in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        state = theirs.rnns[layer].layer.state_dict()
        ahead.load_state_dict({key: value for key, value in state.items() if "reverse" not in key})
        back.load_state_dict(
            {
                key.removesuffix("_reverse"): value
                for key, value in state.items()
                if "reverse" in key
            }
        )
    ours.sum.scores.data = scores()
    expected = theirs(summed, LENGTHS)[0]
    found, _ = ours(features, LENGTHS)
    for b, length in enumerate(LENGTHS):
        same(found[b, :length], expected[b, :length])


def test_many_heads_at_once_are_each_head_alone(
    case: tuple[Tensor, Tensor, RecurrentHeadConfig],
) -> None:
    features, _, config = case
    for kind in (LinearHead, PooledHead):
        heads = [kind(LAYERS, DIM, OUTPUTS, config) for _ in range(3)]
        for number, head in enumerate(heads):
            head.sum.scores.data = scores() * number
        together, _ = run_heads(heads, features, LENGTHS)
        same(together, torch.stack([head(features, LENGTHS)[0] for head in heads]))


def test_spec_augment_makes_the_draws_that_theirs_makes(s3prl: Any) -> None:
    theirs = pytest.importorskip("s3prl.nn.specaug").SpecAug(
        freq_mask_width_range=(0, 50),
        num_freq_mask=4,
        time_mask_width_range=(0, 40),
        num_time_mask=2,
    )  # SuperbASR's
    for seed, lengths in enumerate([[190, 150, 8], [64, 64, 64], [30, 10, 11]]):
        frames = torch.tensor(lengths)
        torch.manual_seed(100)
        x = torch.randn(3, max(lengths), 120).requires_grad_()
        torch.manual_seed(seed)
        expected, _ = theirs(x * 1, frames)
        torch.manual_seed(seed)
        same(augment(x, frames), expected)
