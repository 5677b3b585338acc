"""Heads: padding never matters, pooling commutes, and the recurrent head is torch's bidirectional LSTM."""

import copy

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mt4ssl_bench.downstream.config import RecurrentHeadConfig
from mt4ssl_bench.downstream.heads.linear import LinearHead, PooledHead
from mt4ssl_bench.downstream.heads.orders import best_orders
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead, flip
from mt4ssl_bench.downstream.heads.spec_augment import augment
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum

CONFIG = RecurrentHeadConfig(projection=6, hidden=5, lstm_layers=2, dropout=0.0)
LENGTHS = torch.tensor([7, 4])


def features() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 2, 7, 4)  # (L, B, T, D)


def test_the_weighted_sum_starts_as_the_mean_of_the_layers() -> None:
    x = features()
    torch.testing.assert_close(WeightedSum(3, layer_norm=False)(x), x.mean(0))
    normed = WeightedSum(3, layer_norm=True)(x)
    torch.testing.assert_close(normed, nn.functional.layer_norm(x, (4,)).mean(0))


def test_the_linear_head_has_no_non_linearity() -> None:
    head = LinearHead(3, 4, 5, CONFIG)
    x = features()
    (a, _), (b, _), (c, _) = head(x, LENGTHS), head(2 * x, LENGTHS), head(0 * x, LENGTHS)
    torch.testing.assert_close(b - a, a - c)


@pytest.mark.parametrize(("kind", "shape"), [(LinearHead, (2, 0, 5)), (PooledHead, (2, 5))])
def test_a_batch_whose_silence_was_trimmed_away_goes_through(
    kind: type[LinearHead], shape: tuple[int, ...]
) -> None:
    logits, lengths = kind(3, 4, 5, CONFIG)(features()[:, :, :0], torch.tensor([0, 0]))
    assert (logits.shape, lengths.tolist()) == (shape, [0, 0])


def test_pooling_stored_means_equals_pooling_frames() -> None:
    head, x = PooledHead(3, 4, 5, CONFIG), features()
    frames, _ = head(x, LENGTHS)
    means = torch.stack([x[:, b, :n].mean(1) for b, n in enumerate(LENGTHS.tolist())], 1)[
        :, :, None
    ]
    pooled, _ = head(means, torch.ones(2, dtype=torch.long))
    torch.testing.assert_close(frames, pooled)


def test_the_recurrent_head_equals_a_packed_bidirectional_lstm() -> None:
    torch.manual_seed(1)
    head, x = RecurrentHead(3, 4, 5, CONFIG).eval(), features()
    lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
    for layer, (ahead, back) in enumerate(zip(head.forwards, head.backwards, strict=True)):
        for source, suffix in ((ahead, ""), (back, "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(lstm, f"{name}_l{layer}{suffix}").data.copy_(getattr(source, f"{name}_l0"))
    packed = pack_padded_sequence(head.projection(head.sum(x)), LENGTHS, batch_first=True)
    expected = head.output(pad_packed_sequence(lstm(packed)[0], batch_first=True)[0])
    found, _ = head(x, LENGTHS)
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1, :4], expected[1, :4], atol=1e-6, rtol=0)


def test_flip_reverses_real_frames_alone() -> None:
    x = torch.arange(5.0).repeat(2, 1)[..., None]
    assert flip(x, torch.tensor([5, 3]))[..., 0].tolist() == [[4, 3, 2, 1, 0], [2, 1, 0, 3, 4]]


def test_spec_augment_masks_within_its_limits_and_only_in_training() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([200, 200, 150, 100])
    x = torch.ones(4, 200, 240)
    masked = augment(x, lengths)
    frames = (masked.sum(2) == 0).sum(1) - (200 - lengths)
    channels = (masked.sum(1) == 0).sum(1)
    assert frames.max() <= 80
    assert channels.max() <= 200
    assert (masked == 0).any()
    head = RecurrentHead(
        3, 4, 5, RecurrentHeadConfig(projection=6, hidden=5, spec_augment=True)
    ).eval()
    assert head(features(), LENGTHS)[0].equal(head(features(), LENGTHS)[0])


def test_the_form_for_cuda_is_the_recurrent_head_on_real_frames() -> None:
    torch.manual_seed(1)
    lengths = torch.tensor([4, 7, 7, 1, 5])
    head, x = RecurrentHead(3, 4, 5, CONFIG), torch.randn(3, 5, 7, 4)
    real = torch.arange(7) < lengths[:, None]
    grads = []
    for packed in (False, True):
        summed = head.augmented(x, lengths)
        logits = head.packed(summed, lengths) if packed else head(x, lengths)[0]
        assert not packed or not logits[~real].any()
        head.zero_grad()
        (logits[real] * torch.linspace(-1, 1, 5)).sum().backward()
        grads.append([logits[real].detach(), *(p.grad for p in head.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    other = copy.deepcopy(head)
    other.output.weight.data.zero_()
    other.forwards[0].weight_hh_l0.data.zero_()
    assert not torch.equal(
        other.packed(summed, lengths) + head.output.bias - other.output.bias,
        head.packed(summed, lengths),
    )
    assert set(other.state_dict()) == set(head.state_dict()) == set(dict(head.named_parameters()))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_the_best_order_is_the_assignment(count: int) -> None:
    costs = torch.randn(4, count, count, generator=torch.Generator().manual_seed(count))
    best = best_orders(costs.requires_grad_())
    for cost, found in zip(costs, best, strict=True):
        rows, columns = linear_sum_assignment(cost.detach().numpy())
        assert float(found) == pytest.approx(float(cost[rows, columns].mean()), abs=1e-6)
    best.sum().backward()
    assert costs.grad is not None
    assert costs.grad.sum((1, 2)).allclose(torch.ones(4))
