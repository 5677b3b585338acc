"""The front end: seven strided convolutions, or a filter bank, and a projection.

The convolutions work in (B, T, C) layout, so that each is a matrix product.

Shapes: B batch, N samples, T frames, C channels, M mel filters, D encoder dimension,
K kernel or window.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, Bounds
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.frame_grid import (
    KERNELS,
    RECEPTIVE_FIELD,
    STRIDE,
    STRIDES,
    frame_count,
    frame_counts,
)
from mt4ssl_bench.device import moved
from mt4ssl_bench.upstream.kernels import EPS, fused_conv, normalize_over_time, normed_conv

HOP = STRIDE // 2
WINDOW = RECEPTIVE_FIELD - HOP  # 240 samples: two windows fill the receptive field of a frame
FFT = 512
MOST_MELS = 80
LOWEST = 20.0  # Hz, the lower edge of the first mel filter
WARPS = 9  # factors, the middle one is 1
KNEE = 4_800.0  # Hz
FLOOR = 1e-6  # power, of audio with variance 1: above the noise of 16-bit audio in an empty band


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """Seven convolutions or a filter bank: a frame every 320 samples, receptive field 400."""

    channels: int = 512  # of each convolution
    normalize: bool = True  # layer-norm each whole waveform before it is cropped
    mels: int = 0  # log-mel energies of a filter bank in place of the convolutions; 0: none
    # in training, frequencies of an utterance are scaled by a factor from 1 - warp to 1 + warp
    warp: float = 0.0
    stack: int = 1  # neighboring frames that the encoder reads as one; 2: a frame every 40 ms

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "channels",
        ("1 or 2", lambda stack: stack in {1, 2}): "stack",
        ("a number from 0 to 0.3", lambda warp: 0 <= warp <= 0.3): "warp",
        # narrower filters would fall between two bins of the spectrum
        (f"0 to {MOST_MELS}", lambda mels: 0 <= mels <= MOST_MELS): "mels",
    }

    @property
    def stride(self) -> int:
        """Samples from frame to frame of the encoder."""
        return STRIDE * self.stack

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the encoder sees."""
        return RECEPTIVE_FIELD + STRIDE * (self.stack - 1)

    def frame_count(self, samples: int) -> int:
        """Return how many frames `samples` samples give."""
        return frame_count(samples) // self.stack

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """Return frame_count() of each of `lengths` (B,)."""
        return frame_counts(lengths) // self.stack


def normalize(waveform: Tensor) -> Tensor:
    """Return a whole waveform (N,) with mean 0 and variance 1."""
    return F.layer_norm(waveform, waveform.shape, eps=EPS)


class Frontend(nn.Module):
    """Convolutions with weights (C, C, K), then LayerNorm and a projection to D.

    A filter bank has no weights. Its energies are normalized over the utterance instead.
    """

    def __init__(self, config: FrontendConfig, dim: int) -> None:
        super().__init__()
        channels = config.channels
        self.stack = config.stack
        self.bank = FilterBank(config.mels, config.warp) if config.mels else None
        self.convs = nn.ParameterList(
            torch.empty(channels, 1 if i == 0 else channels, kernel)
            for i, kernel in enumerate(() if self.bank else KERNELS)
        )
        self.conv_norms = nn.ModuleList(nn.LayerNorm(channels, eps=EPS) for _ in self.convs)
        size = config.stack * (self.bank.dim if self.bank else channels)
        self.norm = nn.Identity() if self.bank else nn.LayerNorm(size, eps=EPS)
        self.projection = nn.Linear(size, dim)
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

    def features(self, waveforms: Tensor, padding: Tensor | None) -> Tensor:
        """Return what is projected, (B, T, stack * C); see forward()."""
        x = self.bank(waveforms) if self.bank else self.convolve(waveforms)
        frames = x.shape[1] // self.stack
        x = x[:, : frames * self.stack].reshape(len(x), frames, -1)
        if self.bank:
            # eps 1: bands without variation, as those that narrow-band audio lacks, stay near 0
            return normalize_over_time(x, padding, eps=1.0)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, waveforms: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return frames (B, T, D) of normalized waveforms (B, N).

        `padding` (B, T) is True at padded frames. Only a filter bank reads it.
        """
        projected: Tensor = self.projection(self.features(waveforms, padding))
        return projected


class FilterBank(nn.Module):
    """Log energies of M mel filters, in two windows of 15 ms, 10 ms apart, in each frame.

    In training, each utterance's frequencies are warped by one of WARPS factors: vocal tract length
    perturbation (Jaitly and Hinton, 2013).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int, warp: float = 0.0) -> None:
        super().__init__()
        self.dim, self.warp = 2 * mels, warp
        window = torch.hann_window(WINDOW, periodic=False)
        factors = torch.linspace(1 - warp, 1 + warp, WARPS).tolist() if warp else [1.0]
        # computed from constants: no part of a checkpoint
        self.register_buffer("window", window / window.norm(), persistent=False)
        filters = torch.stack([mel_filters(mels, factor) for factor in factors])
        self.register_buffer("filters", filters, persistent=False)  # (WARPS or 1, FFT / 2 + 1, M)

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the log energies (B, T, 2M) of normalized waveforms (B, N), in fp32."""
        filters = self.filters[len(self.filters) // 2]  # without warp
        if self.training and self.warp:
            chosen = moved(torch.randint(WARPS, (len(waveforms),)), waveforms.device)
            filters = self.filters[chosen]  # (B, FFT / 2 + 1, M)
        with torch.autocast(waveforms.device.type, enabled=False):
            windows = waveforms.float().unfold(1, WINDOW, HOP) * self.window  # (B, 2T or more, K)
            power = torch.fft.rfft(windows, FFT).abs().square()
            energies = (power @ filters + FLOOR).log()  # (B, 2T or more, M)
            frames = (waveforms.shape[1] - RECEPTIVE_FIELD) // STRIDE + 1
            made: Tensor = energies[:, : 2 * frames].reshape(len(energies), frames, self.dim)
        return made


def mel_filters(mels: int, factor: float = 1.0) -> Tensor:
    """Return triangular filters (FFT / 2 + 1, M) of sum 1, evenly spaced on HTK's mel scale.

    Frequencies are scaled by `factor` up to a knee at KNEE, and from there on so that half the
    sampling rate stays in its place.
    """
    edges = torch.linspace(_mel(LOWEST), _mel(RATE / 2), mels + 2, dtype=torch.float64)
    edges = 700 * ((edges / 1127).exp() - 1)  # Hz
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None] * RATE / FFT
    knee = KNEE * min(factor, 1.0)
    slope = (RATE / 2 - knee) / (RATE / 2 - knee / factor)
    bins = torch.where(bins <= knee / factor, bins * factor, RATE / 2 - slope * (RATE / 2 - bins))
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (bins - left) / (center - left), (right - bins) / (right - center)
    triangles = torch.minimum(rise, fall).clamp(min=0)
    return (triangles / triangles.sum(0)).float()


def _mel(frequency: float) -> float:
    return 1127 * math.log1p(frequency / 700)
