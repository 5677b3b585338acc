"""Waveform to frames: seven strided convolutions in frames-by-channels layout, so that each is a matrix product.

Shapes: B batch, N samples, T frames, C channels, D encoder dimension, K kernel.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.upstream.config import FrontendConfig

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
STRIDE = math.prod(STRIDES)  # 320 samples: one frame per 20 ms at 16 kHz
RECEPTIVE_FIELD = 400  # samples that one frame sees
EPS = 1e-5
TILE = 2**20  # numbers (4 MB) that a CPU has between LayerNorm and product at a time


def frame_count(samples: int) -> int:
    """Return how many frames `samples` samples give: 10 s -> 499."""
    return max((samples - RECEPTIVE_FIELD) // STRIDE + 1, 0)


def frame_counts(lengths: Tensor) -> Tensor:
    """Return frame_count() of each of `lengths` (B,)."""
    return torch.div(lengths - RECEPTIVE_FIELD, STRIDE, rounding_mode="floor").add(1).clamp(min=0)


def normalize(waveform: Tensor) -> Tensor:
    """Return one waveform (N,) with mean 0 and variance 1 over the whole of it, as the model expects its input."""
    return F.layer_norm(waveform, waveform.shape, eps=EPS)


class _NormedConv(torch.autograd.Function):
    """LayerNorm, GELU, then a convolution of stride 2 and kernel 2 or 3 over (B, T, C), as products over views.

    The first two taps of every window lie side by side in memory: (B, T, C) seen as (B, T/2, 2C). The third is every
    second frame. So the convolution is one product, or two, without a copy; the backward pass likewise. On a CPU some
    hundred windows are made at a time, so that what lies between LayerNorm and product stays in its cache. Only x is
    kept for the backward pass; LayerNorm and GELU, cheap beside the products, are computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context has no type
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
    """Return the first two taps of a weight (O, C, K) as (2C, O), and the third as (C, O) where there is one."""
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
    """Yield (rows, first window, end) that together cover an output (B, T', O): all at once but on a CPU."""
    rows, windows = (1, max(1, TILE // (2 * channels))) if y.is_cpu else (len(y), y.shape[1])
    for row in range(0, len(y), rows):
        for first in range(0, y.shape[1], windows):
            yield slice(row, row + rows), first, min(first + windows, y.shape[1])


class Frontend(nn.Module):
    """Convolutions, then LayerNorm and a projection to the encoder's dimension; both are part of MT4SSL's front end.

    The convolution weights have the usual shape (C_out, C_in, K).
    """

    def __init__(self, config: FrontendConfig, dim: int) -> None:
        super().__init__()
        channels = config.channels
        self.convs = nn.ParameterList(
            torch.empty(channels, 1 if i == 0 else channels, kernel)
            for i, kernel in enumerate(KERNELS)
        )
        self.conv_norms = nn.ModuleList(nn.LayerNorm(channels, eps=EPS) for _ in KERNELS)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.projection = nn.Linear(channels, dim)
        for weight in self.convs:
            nn.init.kaiming_normal_(weight)

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return the convolutions' output (B, T, C) of normalised 16 kHz waveforms (B, N), N >= 400."""
        first, *rest = self.convs
        x = (
            waveforms.unfold(1, KERNELS[0], STRIDES[0]) @ first[:, 0].t()
        ).contiguous()  # (B, T0, C)
        for weight, norm in zip(rest, self.conv_norms, strict=False):
            x = _NormedConv.apply(x, norm.weight, norm.bias, weight.to(x.dtype))
        normed: Tensor = self.conv_norms[-1](x)
        return F.gelu(normed)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, T, D) of normalised waveforms (B, N)."""
        projected: Tensor = self.projection(self.norm(self.convolve(waveforms)))
        return projected
