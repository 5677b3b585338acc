"""Waveform to frames: seven strided convolutions in frames-by-channels layout, so that each is a matrix product.

Shapes: B batch, N samples, T frames, C channels, D encoder dimension, K kernel.
"""

import math
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
    second frame. So the convolution is one product, or two, without a copy; the backward pass likewise. Of the three
    large tensors only the first is kept; LayerNorm and GELU, cheap beside the products, are computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - autograd's context has no type
        ctx.save_for_backward(x, gain, bias, weight)
        h = F.gelu(F.layer_norm(_full(x), x.shape[-1:], gain, bias, EPS)).to(x.dtype)
        pairs, two, count = _pairs(h, weight)
        y = torch.bmm(pairs, two.expand(len(x), -1, -1))  # (B, T', O)
        if weight.shape[2] == 3:
            y.baddbmm_(h[:, 2 : 2 * count + 1 : 2], weight[:, :, 2].t().expand(len(x), -1, -1))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, gain, bias, weight = ctx.saved_tensors
        full = _full(x)
        normed, mean, rstd = torch.native_layer_norm(full, x.shape[-1:], gain, bias, EPS)
        grad_h, grad_weight = _conv_backward(F.gelu(normed).to(x.dtype), weight, grads[0].contiguous())
        grad_normed = torch.ops.aten.gelu_backward(grad_h.to(full.dtype), normed)
        grad_x, grad_gain, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grad_normed, full, x.shape[-1:], mean, rstd, gain, bias, [True, True, True]
        )
        return grad_x.to(x.dtype), grad_gain, grad_bias, grad_weight


def _full(x: Tensor) -> Tensor:
    """Return half-precision x in fp32: LayerNorm is never computed in less."""
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _conv_backward(h: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the convolution's input (B, T, C) and weight (O, C, K), given that of its output."""
    out, channels, kernel = weight.shape
    pairs, two, count = _pairs(h, weight)
    grad_h = torch.empty_like(h)
    grad_h[:, 2 * count :] = 0
    target = grad_h[:, : 2 * count].view(len(h), count, 2 * channels)
    torch.bmm(grad, two.t().expand(len(h), -1, -1), out=target)
    grad_two = torch.bmm(pairs.transpose(1, 2), grad).sum(0)  # (2C, O)
    grad_weight = torch.empty_like(weight)
    grad_weight[:, :, :2] = grad_two.view(2, channels, out).permute(2, 1, 0)
    if kernel == 3:
        grad_h[:, 2 : 2 * count + 1 : 2].baddbmm_(grad, weight[:, :, 2].expand(len(h), -1, -1))
        grad_weight[:, :, 2] = torch.bmm(grad.transpose(1, 2), h[:, 2 : 2 * count + 1 : 2]).sum(0)
    return grad_h, grad_weight


def _pairs(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return x as windows of two frames (B, T', 2C), the weight's first two taps as (2C, O), and T'."""
    out, channels, kernel = weight.shape
    count = (x.shape[1] - kernel) // 2 + 1
    pairs = x[:, : 2 * count].view(len(x), count, 2 * channels)
    return pairs, weight[:, :, :2].permute(2, 1, 0).reshape(2 * channels, out), count


class Frontend(nn.Module):
    """Convolutions, then LayerNorm and a projection to the encoder's dimension; both are part of MT4SSL's front end.

    The convolution weights have the usual shape (C_out, C_in, K).
    """

    def __init__(self, config: FrontendConfig, dim: int) -> None:
        super().__init__()
        channels = config.channels
        self.convs = nn.ParameterList(
            torch.empty(channels, 1 if i == 0 else channels, kernel) for i, kernel in enumerate(KERNELS)
        )
        self.conv_norms = nn.ModuleList(nn.LayerNorm(channels, eps=EPS) for _ in KERNELS)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.projection = nn.Linear(channels, dim)
        for weight in self.convs:
            nn.init.kaiming_normal_(weight)

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return the convolutions' output (B, T, C) of normalised 16 kHz waveforms (B, N), N >= 400."""
        first, *rest = self.convs
        x = (waveforms.unfold(1, KERNELS[0], STRIDES[0]) @ first[:, 0].t()).contiguous()  # (B, T0, C)
        for weight, norm in zip(rest, self.conv_norms, strict=False):
            x = _NormedConv.apply(x, norm.weight, norm.bias, weight.to(x.dtype))
        normed: Tensor = self.conv_norms[-1](x)
        return F.gelu(normed)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, T, D) of normalised waveforms (B, N)."""
        projected: Tensor = self.projection(self.norm(self.convolve(waveforms)))
        return projected
