"""Log-mel energies on the 50 Hz grid: two windows of 15 ms, 10 ms apart, in each frame of 25 ms.

Shapes: B batch, N samples, T frames, M mel filters.
"""

import math

import torch
from torch import Tensor, nn

from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD, STRIDE

HOP = STRIDE // 2
WINDOW = RECEPTIVE_FIELD - HOP  # 240 samples: two windows fill a frame's receptive field
FFT = 512
LOWEST = 20.0  # Hz, the lower edge of the first filter
FLOOR = 1e-6  # power, of audio with variance 1: above 16-bit audio's noise in an empty band


class FilterBank(nn.Module):
    """Log energies of M triangular filters on the mel scale, in both windows of a frame."""

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.dim = 2 * mels
        window = torch.hann_window(WINDOW, periodic=False)
        # computed from constants: no part of a checkpoint
        self.register_buffer("window", window / window.norm(), persistent=False)
        self.register_buffer("filters", mel_filters(mels), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the log energies (B, T, 2M) of normalized waveforms (B, N), in fp32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            windows = waveforms.float().unfold(1, WINDOW, HOP) * self.window  # (B, 2T or more, K)
            power = torch.fft.rfft(windows, FFT).abs().square()
            energies = (power @ self.filters + FLOOR).log()  # (B, 2T or more, M)
            frames = (waveforms.shape[1] - RECEPTIVE_FIELD) // STRIDE + 1
            return energies[:, : 2 * frames].reshape(len(energies), frames, self.dim)


def mel_filters(mels: int) -> Tensor:
    """Return triangular filters (FFT / 2 + 1, M) of sum 1, evenly spaced on HTK's mel scale."""
    edges = torch.linspace(_mel(LOWEST), _mel(RATE / 2), mels + 2, dtype=torch.float64)
    edges = 700 * ((edges / 1127).exp() - 1)  # Hz
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None] * RATE / FFT
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (bins - left) / (center - left), (right - bins) / (right - center)
    triangles = torch.minimum(rise, fall).clamp(min=0)
    return (triangles / triangles.sum(0)).float()


def _mel(frequency: float) -> float:
    return 1127 * math.log1p(frequency / 700)
