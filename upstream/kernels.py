"""Attention and dropout that draw and keep less than torch's own on a CPU.

Each equals the plain form in value.

Shapes: B batch, H heads, Q queries, T frames, E dimension of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5  # of every LayerNorm
TILE = 2**20  # numbers (4 MB) that a CPU has between LayerNorm and product at a time
LEVELS = 2**16  # a dropout probability is rounded to a multiple of 1/LEVELS: 0.1 becomes 0.100006


def dropout(x: Tensor, p: float, training: bool) -> Tensor:  # noqa: FBT001 - torch's signature
    """Return F.dropout(x, p, training)."""
    if not training or p == 0 or not x.is_cpu:
        return F.dropout(x, p, training)
    dropped: Tensor = _Dropout.apply(x, p)
    return dropped


def attention(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, p: float) -> Tensor:
    """Return (B, H, Q, E): softmax attention of q (B, H, Q, E) over k and v (B, H, T, E), weights
    dropped at rate `p`.

    `keys` (B, 1, 1, T) is True where attended, None where all are.
    """
    if p == 0 or not q.is_cpu or q.dtype not in {torch.float32, torch.float64}:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p)
    attended: Tensor = _DropAttention.apply(q * q.shape[-1] ** -0.5, k, v, keys, p)
    return attended


def normed_conv(x: Tensor, norm: nn.LayerNorm, weight: Tensor) -> Tensor:
    """Return the convolution, stride 2 and no bias, of gelu(norm(x)) for x (B, T, C): (B, T', C).

    Args:
        x: frames before the LayerNorm.
        norm: the LayerNorm over channels.
        weight: (C, C, K), K 2 or 3.
    """
    y: Tensor = _NormedConv.apply(x, norm.weight, norm.bias, weight.to(x.dtype))
    return y


def draw(shape: torch.Size, p: float) -> Tensor:
    """Return a mask of `shape`, True with probability 1 - p: 16 bits each instead of bernoulli_'s
    64.
    """
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)
    return bits >= round(p * LEVELS) - LEVELS // 2


class _Dropout(torch.autograd.Function):
    """Keeps one byte per element for the backward pass, where torch keeps four."""

    @staticmethod
    # autograd's context has no type
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:  # noqa: ANN401
        keep = draw(x.shape, p)
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - p)
        return _kept(x, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (keep,) = ctx.saved_tensors
        return _kept(grads[0], keep).mul_(ctx.scale), None


class _DropAttention(torch.autograd.Function):
    """Keeps the weights once, and one byte for each that says whether it was dropped.

    Torch keeps them thrice.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor | None,
        p: float,
    ) -> Tensor:
        scores = q @ k.transpose(-1, -2)  # (B, H, Q, T)
        if keys is not None:
            scores.masked_fill_(~keys, -torch.inf)
        weights = scores.softmax(-1)
        keep = draw(weights.shape, p)
        ctx.save_for_backward(q, k, v, weights, keep)
        ctx.scale = 1 / (1 - p)
        return (_kept(weights, keep) @ v).mul_(ctx.scale)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights, keep = ctx.saved_tensors
        grad = grads[0] * ctx.scale
        grad_v = _kept(weights, keep).transpose(-1, -2) @ grad
        grad_weights = _kept(grad @ v.transpose(-1, -2), keep)
        grad_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001 - torch's own gradient
            grad_weights, weights, -1, weights.dtype
        )
        return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, grad_v, None, None


def _kept(x: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, x, 0.0)


class _NormedConv(torch.autograd.Function):
    """LayerNorm, GELU, then a convolution of stride 2 and kernel 2 or 3 over (B, T, C), as products
    over views.

    The first two taps of every window lie side by side in memory: (B, T, C) seen as (B, T/2, 2C).
    The third is every second frame. So the convolution is one product, or two, without a copy; the
    backward pass likewise. On a CPU some hundred windows are made at a time, so that what lies
    between LayerNorm and product stays in its cache. Only x is kept for the backward pass;
    LayerNorm and GELU, cheap beside the products, are computed again.
    """

    @staticmethod
    # autograd's context has no type
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        gain: Tensor,
        bias: Tensor,
        weight: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, gain, bias, weight)
        pairs, last = _taps(weight)
        y = x.new_empty(len(x), _windows(x, weight), len(weight))
        for rows, first, end in _tiles(y, x.shape[2]):
            part, out = _frames(x[rows], first, end, weight), y[rows, first:end]
            h = F.gelu(F.layer_norm(_full(part), x.shape[-1:], gain, bias, EPS)).to(x.dtype)
            torch.bmm(_side_by_side(h, end - first), pairs.expand(len(h), -1, -1), out=out)
            if last is not None:
                out.baddbmm_(h[:, 2::2], last.expand(len(h), -1, -1))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, gain, bias, weight = ctx.saved_tensors
        grad_y, (pairs, last) = grads[0].contiguous(), _taps(weight)
        grad_x = torch.zeros_like(x)
        grad_gain, grad_bias = torch.zeros_like(gain), torch.zeros_like(bias)
        grad_taps = [
            torch.zeros_like(tap, dtype=gain.dtype) for tap in (pairs, last) if tap is not None
        ]
        for rows, first, end in _tiles(grad_y, x.shape[2]):
            part, grad = _frames(x[rows], first, end, weight), grad_y[rows, first:end]
            full = _full(part)
            normed, mean, rstd = torch.native_layer_norm(full, x.shape[-1:], gain, bias, EPS)
            h = F.gelu(normed).to(x.dtype)
            grad_h = torch.zeros_like(h)
            torch.bmm(
                grad, pairs.t().expand(len(h), -1, -1), out=_side_by_side(grad_h, end - first)
            )
            grad_taps[0] += torch.bmm(_side_by_side(h, end - first).transpose(1, 2), grad).sum(0)
            if last is not None:
                grad_h[:, 2::2].baddbmm_(grad, last.t().expand(len(h), -1, -1))
                grad_taps[1] += torch.bmm(h[:, 2::2].transpose(1, 2), grad).sum(0)
            grad_normed = torch.ops.aten.gelu_backward(grad_h.to(full.dtype), normed)
            found = torch.ops.aten.native_layer_norm_backward(
                grad_normed, full, x.shape[-1:], mean, rstd, gain, bias, [True, True, True]
            )
            _frames(grad_x[rows], first, end, weight).add_(
                found[0]
            )  # neighbouring tiles share a frame
            grad_gain += found[1]
            grad_bias += found[2]
        grad_weight = (
            torch.cat(grad_taps).view(weight.shape[2], -1, len(weight)).permute(2, 1, 0)
        )  # (O, C, K)
        return grad_x, grad_gain, grad_bias, grad_weight.to(weight.dtype)


def _full(x: Tensor) -> Tensor:
    """Return half-precision x in fp32: LayerNorm is never computed in less."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _taps(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the first two taps of a weight (O, C, K) as (2C, O), and the third as (C, O) where
    there is one.
    """
    first, second, *third = weight.permute(2, 1, 0)
    return torch.cat([first, second]), third[0] if third else None


def _windows(x: Tensor, weight: Tensor) -> int:
    return (x.shape[1] - weight.shape[2]) // 2 + 1


def _frames(x: Tensor, first: int, end: int, weight: Tensor) -> Tensor:
    """Return the frames of x (B, T, C) that the windows first ... end - 1 cover."""
    return x[:, 2 * first : 2 * end + weight.shape[2] - 2]


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """Return x (B, T, C) as `count` windows of two frames (B, count, 2C)."""
    return x[:, : 2 * count].view(len(x), count, 2 * x.shape[2])


def _tiles(y: Tensor, channels: int) -> Iterator[tuple[slice, int, int]]:
    """Yield (rows, first window, end) that together cover an output (B, T', O): all at once but on
    a CPU.
    """
    rows, windows = (1, max(1, TILE // (2 * channels))) if y.is_cpu else (len(y), y.shape[1])
    for row in range(0, len(y), rows):
        for first in range(0, y.shape[1], windows):
            yield slice(row, row + rows), first, min(first + windows, y.shape[1])
