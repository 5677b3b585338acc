"""Attention and dropout that draw and keep less than torch's own on a CPU; each equals the plain form in value.

Shapes: B batch, H heads, Q queries, T frames, E dimension of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16  # a dropout probability is rounded to a multiple of 1/LEVELS: 0.1 becomes 0.100006


def dropout(x: Tensor, p: float, training: bool) -> Tensor:  # noqa: FBT001 - torch's signature
    """Return F.dropout(x, p, training)."""
    if not training or p == 0 or not x.is_cpu:
        return F.dropout(x, p, training)
    dropped: Tensor = _Dropout.apply(x, p)
    return dropped


def attention(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, p: float) -> Tensor:
    """Return (B, H, Q, E): softmax attention of q (B, H, Q, E) over k and v (B, H, T, E), weights dropped at rate `p`.

    `keys` (B, 1, 1, T) is True where attended, None where all are.
    """
    if p == 0 or not q.is_cpu or q.dtype not in {torch.float32, torch.float64}:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p)
    attended: Tensor = _DropAttention.apply(q * q.shape[-1] ** -0.5, k, v, keys, p)
    return attended


def draw(shape: torch.Size, p: float) -> Tensor:
    """Return a mask of `shape`, True with probability 1 - p: 16 bits each instead of bernoulli_'s 64."""
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)
    return bits >= round(p * LEVELS) - LEVELS // 2


class _Dropout(torch.autograd.Function):
    """Keeps one byte per element for the backward pass, where torch keeps four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:  # noqa: ANN401 - autograd's context has no type
        keep = draw(x.shape, p)
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - p)
        return _kept(x, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (keep,) = ctx.saved_tensors
        return _kept(grads[0], keep).mul_(ctx.scale), None


class _DropAttention(torch.autograd.Function):
    """Keeps the weights once, and one byte for each that says whether it was dropped; torch keeps them thrice."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, p: float) -> Tensor:  # noqa: ANN401
        scores = q @ k.transpose(-1, -2)  # (B, H, Q, T)
        if keys is not None:
            scores.masked_fill_(~keys, -torch.inf)
        weights = scores.softmax(-1)
        keep = draw(weights.shape, p)
        ctx.save_for_backward(q, k, v, weights, keep)
        ctx.scale = 1 / (1 - p)
        return (_kept(weights, keep) @ v).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # noqa: ANN401
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
