"""Seeded crops of utterances: some whose means are stored, or one that each epoch draws anew."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.draw import draw, share


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Seeded crops of every utterance whose features are averaged over time.

    Attributes:
        seconds: Length of a crop; 0 takes utterances whole.
        count: Crops of an utterance (K).
        seed: Decides, with an utterance's id, where its crops begin.
    """

    seconds: float
    count: int = 1
    seed: int = 0

    def draw(self, samples: audio.Samples, name: str) -> list[audio.Samples]:
        """Return the crops of utterance `name`; one not longer than a crop is taken whole, once."""
        length = round(self.seconds * audio.RATE)
        if not length or len(samples) <= length:
            return [samples]
        room = len(samples) - length + 1
        starts = np.random.default_rng(draw(self.seed, name)).integers(0, room, self.count)
        return [samples[start : start + length] for start in starts]


@dataclass(frozen=True, kw_only=True)
class FreshCrop:
    """One crop of every utterance, another one in each epoch: features of it are not stored.

    Attributes:
        seconds: Length of a crop.
        seed: Decides, with the epoch and an utterance's id, where its crop begins.
        epoch: Of the training.
    """

    seconds: float
    seed: int = 0
    epoch: int = 0
    count: ClassVar[int] = 1

    def draw(self, samples: audio.Samples, name: str) -> list[audio.Samples]:
        """Return the crop of utterance `name`; one not longer than a crop is taken whole."""
        length = round(self.seconds * audio.RATE)
        room = max(len(samples) - length, 0) + 1
        start = int(share(self.seed, self.epoch, name) * room)
        return [samples[start : start + length]]
