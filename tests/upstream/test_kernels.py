"""Attention and dropout against torch's own, with the same elements dropped."""

import pytest
import torch
from torch import Tensor

from mt4ssl_bench.upstream import kernels


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, keep: Tensor, p: float
) -> Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if keys is not None:
        scores = scores.masked_fill(~keys, -torch.inf)
    return (scores.softmax(-1) * keep / (1 - p)) @ v


@pytest.mark.parametrize("padded", [False, True])
def test_attention_with_dropped_weights_equals_the_plain_form_forward_and_backward(
    *, padded: bool
) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)  # fewer queries than keys
    k, v = (torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    keys = (
        torch.arange(9)[None, None, None] < torch.tensor([9, 6])[:, None, None, None]
        if padded
        else None
    )
    torch.manual_seed(1)
    found = kernels.attention(q, k, v, keys, 0.3)
    torch.manual_seed(1)
    keep = kernels.draw(torch.Size((2, 3, 5, 9)), 0.3)
    assert 0.1 < 1 - keep.double().mean() < 0.5
    expected = plain_attention(q, k, v, keys, keep, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    grad = torch.randn_like(found)
    ours = torch.autograd.grad(found, (q, k, v), grad)
    for a, b in zip(ours, torch.autograd.grad(expected, (q, k, v), grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_dropout_scales_what_it_keeps_and_its_gradient_alike() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = kernels.dropout(x, 0.1, training=True)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])
    assert (y == 0).float().mean().item() == pytest.approx(
        0.1, abs=1e-3
    )  # three standard deviations
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert kernels.dropout(x, 0.1, training=False) is x


def test_each_quarter_of_a_word_is_drawn_fairly() -> None:
    torch.manual_seed(0)
    kept = kernels.draw(torch.Size((250_000, 4)), 0.25).float().mean(0)
    torch.testing.assert_close(kept, torch.full((4,), 0.75), atol=3e-3, rtol=0)
    assert kernels.draw(torch.Size((3, 5)), 0.5).shape == (3, 5)


def test_a_positional_convolution_of_planes_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(32, 32, 19, padding=9, groups=4).double()
    x = torch.randn(2, 25, 32, dtype=torch.float64, requires_grad=True)
    plain, planes = kernels.positional_conv(x, conv), kernels.planar_conv(x, conv)
    torch.testing.assert_close(planes, plain, rtol=1e-12, atol=1e-12)
    (a,), (b,) = (torch.autograd.grad(y.square().sum(), x) for y in (plain, planes))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
