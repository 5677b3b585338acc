"""Audio effects: changes of the samples that a task asks for before an upstream reads them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mt4ssl_bench.data.audio import Samples


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


def apply(effects: Iterable[Effect], samples: Samples) -> Samples:
    """Return the samples (N,) after all effects, in order."""
    for effect in effects:
        samples = effect(samples)
    return samples
