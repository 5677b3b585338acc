"""The best of several ways to decode test, chosen on test: SUPERB's rule for some tasks.

It is never ranked.

Shapes: S resamples, N answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Floats, Resampled
from mt4ssl_bench.results.metrics.metric import Fast, Metric, Score


@dataclass(frozen=True, kw_only=True)
class BestVariant(Fast):
    """The value of a metric under the one of the answers' `variants` that is best on them.

    Each resample has its own best one. NaN without variants.
    """

    of: Metric

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        ways = list(answers[0].get("variants", {})) if answers else []
        systems = [self.of.system(_decoded(answers, way)) for way in ways]
        best = np.max if self.of.higher_is_better else np.min  # NaN only where every way is

        def values(weights: Floats) -> Floats:
            if not systems:
                return np.full(len(weights), np.nan)
            chosen: Floats = best([system.resampled(weights) for system in systems], axis=0)
            return chosen

        return values


def by_rule(metric: Metric) -> Metric:
    """Return a metric by SUPERB's rule: the same one, with the variant that is best on test."""
    return Metric(
        name=f"{metric.name}_by_rule",
        value=BestVariant(of=metric),
        title=f"{metric.title or metric.name.upper()} by SUPERB's rule",
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        order=metric.order,
        units=metric.units,
        over=metric.over,
        bounds=metric.bounds,
        ranked=False,
    )


def measurable(metrics: Sequence[Metric], answers: Sequence[Answer]) -> list[Metric]:
    """Return the metrics, but for those of variants where answers have none."""
    lacking = not all("variants" in answer for answer in answers)
    return [each for each in metrics if not (lacking and isinstance(each.value, BestVariant))]


def scores(metrics: Sequence[Metric], answers: Sequence[Answer]) -> dict[str, Score]:
    """Return the score of each measurable metric by name, without those that have no number.

    A slot type may stand in no reference, or every clip may be too short: what the other metrics
    say is still true.

    Raises:
        CorpusError: If the first, the main one, has no number.
    """
    found = {}
    for metric in measurable(metrics, answers):
        try:
            found[metric.name] = metric.score(answers)
        except CorpusError:
            if metric is metrics[0]:
                raise
    return found


def _decoded(answers: Sequence[Answer], way: str) -> list[Answer]:
    return [{**answer, "hypothesis": answer["variants"][way]} for answer in answers]
