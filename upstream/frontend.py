"""The front end: seven strided convolutions, in (B, T, C) layout so that each is a matrix product.

Shapes: B batch, N samples, T frames, C channels, D encoder dimension, K kernel.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, Bounds
from mt4ssl_bench.data.frame_grid import KERNELS, STRIDES
from mt4ssl_bench.upstream.kernels import EPS, fused_conv, normed_conv


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """The convolutional front end: seven layers, total stride 320 samples, receptive field 400."""

    channels: int = 512  # of each convolution
    normalize: bool = True  # layer-norm each whole waveform before it is cropped

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "channels"}


def normalize(waveform: Tensor) -> Tensor:
    """Return a whole waveform (N,) with mean 0 and variance 1."""
    return F.layer_norm(waveform, waveform.shape, eps=EPS)


class Frontend(nn.Module):
    """Convolutions with weights (C, C, K), then LayerNorm and a projection to D."""

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
        self.fused = False  # LayerNorm and GELU as one compiled kernel
        for weight in self.convs:
            nn.init.kaiming_normal_(weight)

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return the convolutions' output (B, T, C) of normalized waveforms (B, N), N >= 400."""
        first, *rest = self.convs
        windows = waveforms.unfold(1, KERNELS[0], STRIDES[0])  # (B, T0, K)
        x = (windows @ first[:, 0].t()).contiguous()
        convolution = fused_conv if self.fused else normed_conv
        for weight, norm in zip(rest, self.conv_norms, strict=False):
            assert isinstance(norm, nn.LayerNorm)
            x = convolution(x, norm, weight)
        normed: Tensor = self.conv_norms[-1](x)
        return F.gelu(normed)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return frames (B, T, D) of normalized waveforms (B, N)."""
        projected: Tensor = self.projection(self.norm(self.convolve(waveforms)))
        return projected
