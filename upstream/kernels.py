"""Dropout, attention and convolution that compute and store less than torch's own on a CPU.

Some have a form for a GPU. Each equals its plain form in value. Shapes: B batch, H heads, Q
queries, T frames, E dimension of a head, C and O channels in and out, K kernel.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

EPS = 1e-5  # of every LayerNorm
TILE = 2**20  # numbers (4 MB) between LayerNorm and product at a time: they stay in a CPU's cache
LEVELS = 2**16  # dropout probabilities are multiples of 1 / LEVELS: 0.1 becomes 0.100006
HALF = (torch.float16, torch.bfloat16)

P = ParamSpec("P")
R = TypeVar("R")


class Context(Protocol):
    """Values that a forward pass saves for its backward pass; torch has no type for them."""

    scale: float

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """The saved tensors."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors."""


def dropout(x: Tensor, p: float, training: bool) -> Tensor:  # noqa: FBT001 - torch's signature
    """Return F.dropout(x, p, training)."""
    if not training or p == 0 or not x.is_cpu:
        return F.dropout(x, p, training)
    dropped: Tensor = _Dropout.apply(x, p)
    return dropped


class Spans(NamedTuple):
    """Where the utterances of a batch, and the padding after each, begin if it is laid end to end.

    Utterances attend to themselves, and padding to padding: flash attention then needs no mask,
    which it has no kernel for.
    """

    queries: Tensor  # (2B + 1,) int32, among the B * Q queries; the last is their number
    keys: Tensor  # (2B + 1,) int32, among the B * T frames

    @classmethod
    def of(cls, padding: Tensor, queries: int | None = None) -> "Spans":
        """Return the spans of a mask (B, T), True at padding; of `queries` frames that attend."""
        rows, frames = padding.shape
        starts = torch.arange(2 * rows + 1, dtype=torch.int32, device=padding.device)
        keys = starts // 2 * frames
        keys[1::2] += (~padding).sum(1, dtype=torch.int32)
        return cls(keys if queries is None else (starts + 1) // 2 * queries, keys)


Keys = Tensor | Spans | None  # (B, 1, 1, T), True at frames that are attended to; None: all are


def attention(q: Tensor, k: Tensor, v: Tensor, keys: Keys, p: float) -> Tensor:
    """Return softmax attention (B, Q, H, E) over k and v (B, T, H, E), weights dropped at rate p.

    q (B, Q, H, E) has all frames or some. Spans are for a device where flash_runs().
    """
    if isinstance(keys, Spans):
        flat = [x.flatten(0, 1) for x in (q, k, v)]
        return flash(flat, keys, (q.shape[1], k.shape[1]), p).view(q.shape)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if p == 0 or not q.is_cpu or q.dtype in HALF:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p)
    else:
        attended = _DropAttention.apply(q * q.shape[-1] ** -0.5, k, v, keys, p)
    return attended.transpose(1, 2)


def flash_runs(x: Tensor, size: int) -> bool:
    """Return whether flash attention computes heads of `size` of what a linear layer makes of x."""
    if not x.is_cuda or size % 8 or size > 256:  # the most that flash takes
        return False
    autocast = torch.is_autocast_enabled("cuda")
    kind = torch.get_autocast_dtype("cuda") if autocast else x.dtype
    return kind in HALF and flash_is_there(x.device)


@cache
def flash_is_there(device: torch.device) -> bool:
    """Return whether this torch and a GPU have flash attention."""
    there = torch.backends.cuda.is_flash_attention_available()
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


def flash(x: list[Tensor], spans: Spans, longest: tuple[int, int], p: float) -> Tensor:
    """Return attention (N, H, E) of q, k and v (N, H, E), in each span."""
    attended: Tensor
    attended, *_ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no other name drops
        *x, *spans, *longest, p, is_causal=False, return_debug_mask=False
    )
    return attended


def normed_conv(x: Tensor, norm: nn.LayerNorm, weight: Tensor) -> Tensor:
    """Return gelu(norm(x)), for x (B, T, C), convolved with weight (O, C, 2 or 3) at stride 2."""
    y: Tensor = _NormedConv.apply(x, norm.weight, norm.bias, weight.to(x.dtype))
    return y


def fused_conv(x: Tensor, norm: nn.LayerNorm, weight: Tensor) -> Tensor:
    """Return normed_conv(), for a GPU: two kernels, and gradients by autograd.

    x (B, T, C) lies in memory as cuDNN's channels_last, so that nothing is copied.
    """
    h = compiled(norm_gelu)(x, norm.weight, norm.bias)
    y = F.conv2d(_planes(h), weight[:, :, None], stride=(1, 2))
    return y.squeeze(2).transpose(1, 2)


def _planes(x: Tensor) -> Tensor:
    """Return a view of x (B, T, C) as images (B, C, 1, T)."""
    return x.transpose(1, 2)[:, :, None]


def normalize_over_time(x: Tensor, padding: Tensor | None, eps: float = EPS) -> Tensor:
    """Return x (B, T, D) with mean 0 and variance 1 per utterance and channel, over real frames."""
    if padding is None:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    else:
        real = ~padding[..., None]
        count = real.sum(1, keepdim=True).clamp(min=1)
        mean = (x * real).sum(1, keepdim=True) / count
        variance = (((x - mean) * real) ** 2).sum(1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + eps)


def norm_gelu(x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return gelu(LayerNorm(x)) for x (B, T, C), in the type of x."""
    return F.gelu(F.layer_norm(_full(x), x.shape[-1:], gain, bias, EPS)).to(x.dtype)


@cache  # torch.compile() takes two seconds to import, which no other command should wait for
def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose elementwise operations run as one kernel, for any length."""
    return torch.compile(function, dynamic=True)


def draw(shape: torch.Size, p: float) -> Tensor:
    """Return a mask that is True with probability 1 - p, drawn from 16 random bits per element."""
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)
    return bits >= round(p * LEVELS) - LEVELS // 2


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, 0.0)


class _Dropout(Function):
    """Saves one byte per element for the backward pass; torch saves four."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, p: float) -> Tensor:
        mask = draw(x.shape, p)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - p)
        return _masked(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _masked(grads[0], mask).mul_(ctx.scale), None


class _DropAttention(Function):
    """Saves the weights once, and their mask in bytes; torch saves the weights three times."""

    @staticmethod
    def forward(
        ctx: Context, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, p: float
    ) -> Tensor:
        scores = q @ k.transpose(-1, -2)  # (B, H, Q, T)
        if keys is not None:
            scores.masked_fill_(~keys, -torch.inf)
        weights = scores.softmax(-1)
        mask = draw(weights.shape, p)
        ctx.save_for_backward(q, k, v, weights, mask)
        ctx.scale = 1 / (1 - p)
        return (_masked(weights, mask) @ v).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights, mask = ctx.saved_tensors
        grad = grads[0] * ctx.scale
        grad_v = _masked(weights, mask).transpose(-1, -2) @ grad
        grad_weights = _masked(grad @ v.transpose(-1, -2), mask)
        grad_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001 - torch's own gradient
            grad_weights, weights, -1, weights.dtype
        )
        return grad_scores @ k, grad_scores.transpose(-1, -2) @ q, grad_v, None, None


class _NormedConv(Function):
    """LayerNorm, GELU and a convolution, tile by tile, as one or two matrix products.

    With stride 2, the first two taps of all windows lie side by side in memory: (B, T, C) seen as
    (B, T / 2, 2C). The third tap is every second frame. Only x is saved for the backward pass:
    LayerNorm and GELU are cheap beside the products, and are computed again.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, gain: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, gain, bias, weight)
        pairs, last = _taps(weight)
        y = x.new_empty(len(x), (x.shape[1] - weight.shape[2]) // 2 + 1, len(weight))
        for rows, first, end in _tiles(y, x.shape[2]):
            tile, out = _frames(x[rows], first, end, weight), y[rows, first:end]
            h = F.gelu(F.layer_norm(_full(tile), x.shape[-1:], gain, bias, EPS)).to(x.dtype)
            torch.bmm(_side_by_side(h, end - first), pairs.expand(len(h), -1, -1), out=out)
            if last is not None:
                out.baddbmm_(h[:, 2::2], last.expand(len(h), -1, -1))
        return y

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor, ...]:
        x, gain, bias, weight = ctx.saved_tensors
        grad_y, (pairs, last) = grads[0].contiguous(), _taps(weight)
        grad_x, grad_gain, grad_bias = (torch.zeros_like(tensor) for tensor in (x, gain, bias))
        grad_pairs = torch.zeros_like(pairs, dtype=gain.dtype)
        grad_last = torch.zeros_like(pairs[: x.shape[2]], dtype=gain.dtype)
        for rows, first, end in _tiles(grad_y, x.shape[2]):
            tile, grad = _full(_frames(x[rows], first, end, weight)), grad_y[rows, first:end]
            normed, mean, rstd = torch.native_layer_norm(tile, x.shape[-1:], gain, bias, EPS)
            h = F.gelu(normed).to(x.dtype)
            grad_h = torch.zeros_like(h)
            h_pairs, grad_h_pairs = (_side_by_side(each, end - first) for each in (h, grad_h))
            torch.bmm(grad, pairs.t().expand(len(h), -1, -1), out=grad_h_pairs)
            grad_pairs += torch.bmm(h_pairs.transpose(1, 2), grad).sum(0)
            if last is not None:
                grad_h[:, 2::2].baddbmm_(grad, last.t().expand(len(h), -1, -1))
                grad_last += torch.bmm(h[:, 2::2].transpose(1, 2), grad).sum(0)
            grad_normed = torch.ops.aten.gelu_backward(grad_h.to(tile.dtype), normed)
            grad_tile, tile_gain, tile_bias = torch.ops.aten.native_layer_norm_backward(
                grad_normed, tile, x.shape[-1:], mean, rstd, gain, bias, [True, True, True]
            )
            _frames(grad_x[rows], first, end, weight).add_(grad_tile)  # neighbors share a frame
            grad_gain += tile_gain
            grad_bias += tile_bias
        grad_taps = grad_pairs if last is None else torch.cat([grad_pairs, grad_last])
        grad_weight = grad_taps.view(weight.shape[2], -1, len(weight)).permute(2, 1, 0)  # (O, C, K)
        return grad_x, grad_gain, grad_bias, grad_weight.to(weight.dtype)


def _full(x: Tensor) -> Tensor:
    """Return half-precision x in fp32: LayerNorm is never computed in less."""
    return x.float() if x.dtype in HALF else x


def _taps(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the first two taps of a weight (O, C, K) as (2C, O), and the third one as (C, O)."""
    first, second, *third = weight.permute(2, 1, 0)
    return torch.cat([first, second]), third[0] if third else None


def _frames(x: Tensor, first: int, end: int, weight: Tensor) -> Tensor:
    """Return the frames of x (B, T, C) that the windows first ... end - 1 cover."""
    return x[:, 2 * first : 2 * end + weight.shape[2] - 2]


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """Return x (B, T, C) as `count` windows of two frames (B, count, 2C)."""
    return x[:, : 2 * count].view(len(x), count, 2 * x.shape[2])


def _tiles(y: Tensor, channels: int) -> Iterator[tuple[slice, int, int]]:
    """Yield (rows, first window, end) over an output (B, T', O), in one tile except on a CPU."""
    rows, windows = (1, max(1, TILE // (2 * channels))) if y.is_cpu else (len(y), y.shape[1])
    for row in range(0, len(y), rows):
        for first in range(0, y.shape[1], windows):
            yield slice(row, row + rows), first, min(first + windows, y.shape[1])
