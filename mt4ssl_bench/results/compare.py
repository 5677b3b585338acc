"""Two upstreams on one task: a paired bootstrap over the same units of the test split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.errors import BenchError, ConfigError
from mt4ssl_bench.results.answers import Answer, decoded
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.lookup import Filed, aligned_answers, comparable, difference, records_of
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.metrics.metric import goodness
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import metric_of, system_of

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of A minus that of B, with its 95 % paired bootstrap interval.

    `units` is the number of resampled units, which `over` names.
    """

    corpus: str
    recipe: str
    metric: str
    a: Score
    b: Score
    value: float
    low: float
    high: float
    method: str
    units: int

    def verdict(self, a: str, b: str) -> str:
        """Return the conclusion in words."""
        if self.low <= 0 <= self.high:
            return f"no difference can be told between {a} and {b}: the interval holds 0"
        ahead = goodness(self.value, higher_is_better=self.a.higher_is_better) > 0
        return f"{a if ahead else b} is better"


def compare(a: str, b: str, *, task: str, folder: Path) -> list[Difference]:
    """Compare two upstreams for each metric, corpus and recipe that both have.

    The arguments are those of records_of().

    Raises:
        BenchError: If a name has no record or several models, if no two records share corpus and
            recipe, or if none of their metrics is installed.
    """
    ours, theirs = records_of(a, task, folder), records_of(b, task, folder)
    pairs = [(x, y) for x in ours for y in theirs if comparable(x[1]) == comparable(y[1])]
    if not pairs:
        reason = difference(ours[0][1], theirs[0][1])
        raise BenchError(f"compare: {a} and {b} cannot be compared on '{task}': {reason}")
    if all(x[0] == y[0] for x, y in pairs):
        raise BenchError(f"compare: {a} and {b} are the same record; name two")
    return [each for x, y in pairs for each in _differences(x, y)]


def _differences(a: Filed, b: Filed) -> list[Difference]:
    sides = aligned_answers(a, b)
    differences, reasons = [], []
    ranked = (name for name, score in a[1].metrics.items() if score.ranked)
    for name in (name for name in ranked if name in b[1].metrics):
        try:
            differences.append(_difference(name, a[1], b[1], sides))
        except ConfigError as error:
            reasons.append(f"compare: {name} cannot be compared: {error}")
    if reasons and not differences:
        raise BenchError(reasons[0])
    for reason in reasons:
        LOGGER.warning("%s; skipping", reason)
    return differences


def _difference(
    name: str, a: Result, b: Result, sides: tuple[Sequence[Answer], Sequence[Answer]]
) -> Difference:
    ours, theirs = (decoded(side, name) for side in sides)
    metric = metric_of(a, name, ours)
    other = metric_of(b, name, theirs)
    systems = system_of(metric, ours), system_of(other, theirs)
    units = Units.of(metric.units(ours))
    value, interval = paired_difference(*systems, units, metric.bounds)
    return Difference(
        corpus=a.corpus["name"],
        recipe=a.recipe_name,
        metric=name,
        a=a.metrics[name],
        b=b.metrics[name],
        value=value,
        low=interval.low,
        high=interval.high,
        method=interval.method,
        units=units.number,
    )
