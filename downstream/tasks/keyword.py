"""Keyword spotting: one label of a word, from class-balanced draws of the training utterances."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.effects import Effect, Gain
from mt4ssl_bench.data.epoch_order import Places
from mt4ssl_bench.downstream.heads.labels import LabelTask

LAST = ("_unknown_", "_silence_")
# SUPERB's outputs, in order; those of another corpus stand after its ten words
CLASSES = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", *LAST)


class Keyword(LabelTask):
    """SUPERB's KS: every class is equally likely in training and in validation."""

    name: ClassVar[str] = "keyword"
    superb: ClassVar[str] = "KS"
    full_hours: ClassVar[float] = 10.0  # Speech Commands 0.01: 14 h
    labels: ClassVar[tuple[str, ...]] = ("keyword",)
    effects: ClassVar[tuple[Effect, ...]] = (Gain(-3.0),)

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units: the keywords in SUPERB's order, others after its ten."""
        super().fit_units(cuts)
        self.values["keyword"].sort(key=_place)

    def draw(self, cuts: Sequence[Cut], epoch: int, role: str) -> Places:
        """See Task.draw: as many draws as cuts, with replacement, each class equally likely.

        s3prl (downstream/speech_commands/expert.py) draws both splits with the weights N / size of
        the class. It draws valid anew each time after the same seed, and drops the last batch of a
        training epoch if it is short.
        """
        batch = self.config.batch if role == "train" and self.config.mode == "frozen" else 1
        count = max(len(cuts) // batch, 1) * batch
        generator = np.random.default_rng(draw(self.config.seeds[0], role, epoch))
        odds = balanced([self.reference(cut) for cut in cuts])
        return generator.choice(len(cuts), size=count, p=odds)


def balanced(keywords: Sequence[str]) -> NDArray[np.float64]:
    """Return the probability (N,) of each utterance, such that every class has the same."""
    sizes = Counter(keywords)
    return np.array([1 / len(sizes) / sizes[keyword] for keyword in keywords])


def _place(keyword: str) -> tuple[bool, int, str]:
    known = CLASSES.index(keyword) if keyword in CLASSES else len(CLASSES)
    return keyword in LAST, known, keyword


TASK = Keyword
