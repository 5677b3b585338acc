"""Audio effects: changes of the samples that a task asks for before an upstream reads them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.audio import Samples, read
from mt4ssl_bench.data.cut import Cut

WINDOW = 320  # samples, 20 ms
STRETCH = 1600  # samples, 0.1 s
LOUD = 2_147_484  # the least whole number above 0.1 % of 2**31 - 1


class Effect(Protocol):
    """A change of 16 kHz samples."""

    @property
    def key(self) -> str:
        """Names the effect in feature stores: letters, digits, ".", "_" and "-".

        Two effects of one key must give the same samples.
        """
        ...

    def __call__(self, samples: Samples) -> Samples:
        """Return the changed samples (N,), float32; `samples` stay as they are."""
        ...


@dataclass(frozen=True)
class Gain:
    """A change of volume, sox's `gain`; SUPERB's keyword spotting has -3 dB.

    Attributes:
        decibels: The amplitude is multiplied by 10^(decibels / 20).
    """

    decibels: float

    @property
    def key(self) -> str:
        """See Effect.key."""
        return f"gain{float(self.decibels)!r}dB"

    def __call__(self, samples: Samples) -> Samples:
        """See Effect."""
        return samples * np.float32(10 ** (self.decibels / 20))


@dataclass(frozen=True)
class TrimSilence:
    """Removal of pauses, also inside: sox's `silence 1 0.1 0.1% -1 0.1 0.1%`, as in SUPERB's ASV.

    A sample is loud if the root mean square of the last 20 ms is above 0.1 % of full scale
    (-60 dB), quiet otherwise. Audio begins with the first 0.1 s of loud samples and ends before
    the next 0.1 s of quiet ones; from there on it is as if it had just started, with nothing
    before. What is left of audio without any loud stretch is empty.
    """

    key: str = "silence-0.1s-60dB"

    def __call__(self, samples: Samples) -> Samples:
        """See Effect."""
        spans = _loud_spans(samples)
        return np.concatenate([samples[start:end] for start, end in spans] or [samples[:0]])


def _loud_spans(samples: Samples) -> list[tuple[int, int]]:
    """Return where audio begins and ends, as TrimSilence says."""
    sums = _sums_of_squares(samples)
    count, base, spans = len(samples), 0, []
    loud = _loud(sums, 0, count, base)
    while base < count:
        # the window knows nothing from before the base
        loud[base : base + WINDOW] = _loud(sums, base, min(base + WINDOW, count), base)
        borders = base + 1 + np.flatnonzero(np.diff(loud[base:]))
        starts = np.array([base, *borders])
        long = np.diff([*starts, count]) >= STRETCH
        begins = starts[long & loud[starts]]
        if not len(begins):
            break
        ends = starts[long & ~loud[starts] & (starts > begins[0])]
        end = int(ends[0]) if len(ends) else count
        spans.append((int(begins[0]), end))
        base = end + STRETCH
    return spans


def _sums_of_squares(samples: Samples) -> NDArray[np.int64]:
    """Return the sums (2, N + 1) of the squares of 32-bit samples so far, as upper and lower part.

    A square has up to 62 bits: its upper and lower 32 are summed apart, so that sums are exact.
    """
    whole = np.rint(samples.astype(np.float64) * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int64)
    squares = whole * whole
    sums = np.zeros((2, len(samples) + 1), dtype=np.int64)
    np.cumsum([squares >> 32, squares & 0xFFFFFFFF], axis=1, out=sums[:, 1:])
    return sums


def _loud(sums: NDArray[np.int64], start: int, end: int, base: int) -> NDArray[np.bool_]:
    """Return which samples from `start` to `end` are loud, with only zeros before `base`."""
    last = np.arange(start, end) + 1
    upper, lower = sums[:, last] - sums[:, np.maximum(last - WINDOW, base)]
    loud: NDArray[np.bool_] = upper * 2.0**32 + lower >= WINDOW * float(LOUD) ** 2
    return loud


def apply(effects: Iterable[Effect], samples: Samples) -> Samples:
    """Return the samples (N,) after all effects, in order."""
    for effect in effects:
        samples = effect(samples)
    return samples


def lengths_after(effects: Iterable[Effect], cuts: Sequence[Cut]) -> list[int]:
    """Return the number of samples of each cut after all effects, for which all audio is read."""
    effects = tuple(effects)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda cut: len(apply(effects, read(cut))), cuts))
