"""The mean over answers of a number that each answer has, for example of SI-SDR improvements.

    PESQ = Metric(name="pesq", value=MeanOfValues("pesq"), unit="", higher_is_better=True)

An answer without the number could not be scored: it counts for nothing.
Shapes: N answers, S resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Floats, System
from mt4ssl_bench.results.metrics.metric import Whole


@dataclass(frozen=True)
class MeanOfValues(Whole):
    """The mean of `Answer.values[key]`, NaN if no answer has it."""

    key: str

    def system(self, answers: Sequence[Answer], /) -> System:
        """See Whole."""
        found = [answer.get("values", {}).get(self.key, math.nan) for answer in answers]
        values = np.array(found, dtype=np.float64)
        has = np.isfinite(values)
        sums = np.stack([np.where(has, values, 0.0), has], axis=1)  # (N, 2)

        def resampled(weights: Floats) -> Floats:
            totals, numbers = (weights @ sums).T
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no number
                means: Floats = totals / numbers
            return means

        value = float(resampled(np.ones((1, len(answers))))[0])
        return System(value, resampled, np.where(has, values, -math.inf))

    def lacking(self, answers: Sequence[Answer]) -> list[str]:
        """Return the ids of the answers without the number."""
        return [answer["id"] for answer in answers if self.key not in answer.get("values", {})]
