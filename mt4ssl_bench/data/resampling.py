"""Windowed-sinc resampling in memory that depends on the audio and not on its rate.

The weights are torchaudio's (Hann window, 6 zero crossings, rolloff 0.99). Its table has one for
each pair of an input and an output sample of a period: 16,000 x 16,001 for 16,001 Hz, 1 GB. Here
they are computed where they are used.
"""

import math

import numpy as np
from numpy.typing import NDArray

CROSSINGS, ROLLOFF = 6, 0.99  # torchaudio.functional.resample's defaults
BLOCK = 2**20  # weights made at a time: 8 MB
TABLE = 2**22  # weights of the largest table: every multiple of 100 Hz and 11,025 Hz stays below


def table_size(rate: int, new_rate: int) -> int:
    """Return how many weights torchaudio's table for two rates in Hz has."""
    old, new = _lowest_terms(rate, new_rate)
    return new * (2 * math.ceil(CROSSINGS / _scale(old, new)) + old)


def resample(samples: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """Return samples (N,) at `rate` Hz as samples at `new_rate` Hz."""
    old, new = _lowest_terms(rate, new_rate)
    scale = _scale(old, new)
    reach = math.ceil(CROSSINGS / scale)
    taps = np.arange(-reach, reach + 2)
    padded = np.pad(samples, (reach, reach + 2))
    resampled = np.empty(-(-len(samples) * new // old), np.float32)
    step = max(BLOCK // len(taps), 1)
    for start in range(0, len(resampled), step):
        places = np.arange(start, min(start + step, len(resampled)), dtype=np.int64)
        whole, part = np.divmod(places * old, new)  # in input samples
        at = np.clip((taps - part[:, None] / new) * scale, -CROSSINGS, CROSSINGS)
        weights = np.sinc(at) * np.cos(at * (np.pi / CROSSINGS / 2)) ** 2 * scale
        resampled[places] = np.einsum("nt,nt->n", padded[whole[:, None] + taps + reach], weights)
    return resampled


def _lowest_terms(rate: int, new_rate: int) -> tuple[int, int]:
    common = math.gcd(rate, new_rate)
    return rate // common, new_rate // common


def _scale(old: int, new: int) -> float:
    """Return the cutoff in units of the input's Nyquist frequency."""
    return min(old, new) * ROLLOFF / old
