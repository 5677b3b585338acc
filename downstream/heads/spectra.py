"""Short-time spectra in librosa's conventions, and signals from masked ones, as in s3prl.

Shapes: S sources, N samples, T frames, F bins.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.data.audio import Samples

SIZE = 512  # samples of the Hann window, and of the transform
BINS = SIZE // 2 + 1
TAIL = 2048  # samples from the end within which a signal's last sound must lie to be repaired


def frame_count(samples: int, hop: int) -> int:
    """Return the number of frames T, which are centred at 0, hop, 2 * hop, ..."""
    return 1 + samples // hop


def spectrum(signals: Tensor, hop: int) -> Tensor:
    """Return the complex spectra (..., T, F) of signals (..., N), which zeros surround."""
    window = torch.hann_window(SIZE, device=signals.device)
    return torch.stft(
        signals, SIZE, hop, window=window, pad_mode="constant", return_complex=True
    ).mT


def signals_of(spectra: Tensor, hop: int, samples: int) -> Tensor:
    """Return the signals (S, N) of spectra (S, T, F); samples beyond the last frame are 0."""
    window = torch.hann_window(SIZE, device=spectra.device)
    reached = min(samples, hop * (spectra.shape[-2] - 1) + SIZE // 2)
    signals = torch.istft(spectra.mT, SIZE, hop, window=window, length=reached)
    return F.pad(signals, (0, samples - reached))


def without_impulse(signal: Samples) -> Samples:
    """Return a signal (N,) without an impulse at its end (s3prl's postprocess).

    The last samples are divided by very small values of the window. If one of the last 512 that are
    not 0 exceeds all samples before them, it and all that follows become 0.
    """
    sounding = np.flatnonzero(signal)
    end = int(sounding[-1]) + 1 if len(sounding) else 0
    start = end - SIZE
    if end < len(signal) - TAIL or start <= 0:
        return signal
    loud = np.flatnonzero(np.abs(signal[start:end]) > np.abs(signal[:start]).max())
    if not len(loud):
        return signal
    repaired = signal.copy()
    repaired[start + loud[0] :] = 0
    return repaired
