"""Emotion recognition: one label, each fold tested in turn."""

from typing import ClassVar

from mt4ssl_bench.data.cut import FOLD
from mt4ssl_bench.downstream.heads.labels import LabelTask


class Emotion(LabelTask):
    """SUPERB's ER: the mean accuracy of folds, each tested by heads of the others."""

    name: ClassVar[str] = "emotion"
    superb: ClassVar[str] = "ER"
    full_hours: ClassVar[float] = 5.0  # IEMOCAP's four classes: 7 h
    labels: ClassVar[tuple[str, ...]] = ("emotion",)
    folds: ClassVar[str] = FOLD


TASK = Emotion
