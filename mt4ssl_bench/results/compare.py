"""Two upstreams on one task: a paired bootstrap over the same units of the test split."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.errors import BenchError, ConfigError
from mt4ssl_bench.results.answers import Answer, decoded
from mt4ssl_bench.results.intervals import MIN_DIFFERENT, paired_difference
from mt4ssl_bench.results.lookup import (
    Filed,
    aligned_answers,
    but_for_seeds,
    comparable,
    difference,
    records_of,
)
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.metrics.metric import goodness
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import metric_of, system_of

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of A minus that of B, with its 95 % paired bootstrap interval.

    `recipe` names settings, too, if others of this name and corpus were compared with other ones.
    `units` is the number of resampled units, which `over` names. `seeds` says what was paired where
    a side has several seeds. `alone` are the lowest and the highest difference of a single unit,
    where units are too few to show a difference.
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
    seeds: str = ""
    alone: tuple[float, float] | None = None

    def verdict(self, a: str, b: str) -> str:
        """Return the conclusion in words."""
        if self.low <= 0 <= self.high:
            told = f"no difference can be told between {a} and {b}"
            if self.alone is None:
                return f"{told}: the interval holds 0"
            return (
                f"{told}: {self.units} {self.a.over} are too few, it takes {MIN_DIFFERENT}; each "
                f"by itself differs by {self.alone[0]:+.2f} to {self.alone[1]:+.2f} (a range, "
                "which claims no confidence)"
            )
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
    every = [(x, y) for x in ours for y in theirs]
    pairs = [(x, y) for x, y in every if comparable(x[1]) == comparable(y[1])] or [
        (x, y) for x, y in every if but_for_seeds(x[1]) == but_for_seeds(y[1])
    ]
    if not pairs:
        reason = difference(ours[0][1], theirs[0][1])
        raise BenchError(f"compare: {a} and {b} cannot be compared on '{task}': {reason}")
    if all(x[0] == y[0] for x, y in pairs):
        raise BenchError(f"compare: {a} and {b} are the same record; name two")
    names = _recipes([result for (_, result), _ in pairs])
    return [
        each for pair, name in zip(pairs, names, strict=True) for each in _differences(*pair, name)
    ]


def _recipes(results: Sequence[Result]) -> list[str]:
    """Return each record's recipe, with the settings by which those of one name are told apart."""
    names = []
    for result in results:
        alike = [
            other.identity.settings
            for other in results
            if (other.corpus["name"], other.recipe_name)
            == (result.corpus["name"], result.recipe_name)
        ]
        own = result.identity.settings
        keys = sorted({key for settings in alike for key in {**settings, **own}})
        varied = [key for key in keys if any(each.get(key) != own.get(key) for each in alike)]
        values = (f"{key}={own.get(key, 'default')}" for key in varied)
        names.append(", ".join([result.recipe_name, *values]))
    return names


def _pairing(a: Result, b: Result) -> str:
    """Return what is paired where a side has several seeds, else ""."""
    if len(a.seeds) < 2 and len(b.seeds) < 2:
        return ""
    ours, theirs = _scored_by(a), _scored_by(b)
    if ours == theirs:
        return f"each is the {ours}; the interval holds these seeds fixed"
    return f"utterances are paired, seeds are not: {ours} against {theirs}"


def _scored_by(result: Result) -> str:
    names = ", ".join(map(str, result.seeds))
    if len(result.seeds) == 1:
        return f"seed {names}"
    return f"{'mean' if result.main.by_seed else 'best on valid'} of seeds {names}"


def _differences(a: Filed, b: Filed, recipe: str) -> list[Difference]:
    sides = aligned_answers(a, b)
    differences, reasons = [], []
    ranked = (name for name, score in a[1].metrics.items() if score.ranked)
    for name in (name for name in ranked if name in b[1].metrics):
        try:
            differences.append(_difference(name, a[1], b[1], sides, recipe))
        except ConfigError as error:
            reasons.append(f"compare: {name} cannot be compared: {error}")
    if reasons and not differences:
        raise BenchError(reasons[0])
    for reason in reasons:
        LOGGER.warning("%s; skipping", reason)
    return differences


def _difference(
    name: str, a: Result, b: Result, sides: tuple[Sequence[Answer], Sequence[Answer]], recipe: str
) -> Difference:
    ours, theirs = (decoded(side, name) for side in sides)
    metric = metric_of(a, name, ours)
    other = metric_of(b, name, theirs)
    systems = system_of(metric, ours), system_of(other, theirs)
    units = metric.units_of(ours)
    value, interval = paired_difference(*systems, units, metric.bounds)
    return Difference(
        corpus=a.corpus["name"],
        recipe=recipe,
        metric=name,
        a=a.metrics[name],
        b=b.metrics[name],
        value=value,
        low=interval.low,
        high=interval.high,
        method=interval.method,
        units=units.number,
        seeds=_pairing(a, b),
        alone=_alone(metric.alone(ours), other.alone(theirs))
        if units.number < MIN_DIFFERENT
        else None,
    )


def _alone(a: dict[str, float], b: dict[str, float]) -> tuple[float, float] | None:
    """Return the lowest and the highest difference of a unit, None where none has a value."""
    differences = [a[name] - b[name] for name in a if math.isfinite(a[name] - b[name])]
    return (min(differences), max(differences)) if differences else None
