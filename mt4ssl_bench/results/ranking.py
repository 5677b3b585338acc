"""Places of a column's records: equal where the paired bootstrap finds no difference."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.answers import WITH_LM, Answer, has_counts, stored_counts
from mt4ssl_bench.results.intervals import Units, beaten_by
from mt4ssl_bench.results.metrics import METRICS, Metric, RatioOfSums
from mt4ssl_bench.results.record import Result

Answers = Callable[[Result], Sequence[Answer]]  # those beside a record; empty if there are none
Places = tuple[list[int], list[bool]]  # of each record: its place, and whether it was paired
LOGGER = logging.getLogger(__name__)


def shared(columns: Sequence[int], rows: Mapping[str, Collection[int]]) -> list[int]:
    """Return the columns that rank: those that every row has.

    If no column is in every row, the one that most rows have decides which rows are ranked, and
    the columns that all of these share rank. A mean is never taken over unequal sets.

    Args:
        columns: The main column of each task, in order.
        rows: The columns that each row has.
    """
    most = max(columns, key=lambda column: sum(column in has for has in rows.values()))
    ranked = [has for has in rows.values() if most in has]
    return [column for column in columns if all(column in has for has in ranked)]


def metric_of(result: Result, name: str, answers: Sequence[Answer]) -> Metric:
    """Return the metric of a record by name.

    Answers that carry the edit counts of the main metric are all that it needs; any other metric
    must be installed.

    Raises:
        ConfigError: If it is not installed, or cannot be used.
    """
    score = result.metrics[name]
    if name == result.main_metric and score.over == "utterances" and has_counts(answers):
        value = RatioOfSums(counts=stored_counts, right=score.higher_is_better)
        return Metric(name=name, value=value, higher_is_better=score.higher_is_better)
    return METRICS.get(name.removesuffix(WITH_LM))


def places(records: Sequence[Result], answers: Answers) -> Places:
    """Return 1 + the number of better records for each, by the main metric of one column.

    A record is better if the 95 % interval of the paired bootstrap excludes 0, as in `compare`.
    Records without answers to the same test items are placed by their values, and so are all if
    the metric is not installed.
    """
    answered = [by_id(answers(record)) for record in records]
    tests = [test_items(record, rows) for record, rows in zip(records, answered, strict=True)]
    (most, _), *_ = [*Counter(filter(None, tests)).most_common(1), ((), 0)]
    chosen = [index for index, items in enumerate(tests) if items and items == most]
    better = dict.fromkeys(range(len(records)), 0)
    paired = set(chosen)
    try:
        beaten = _beaten([(records[i], answered[i]) for i in chosen]) if chosen else []
        better |= dict(zip(chosen, beaten, strict=True))
    except ConfigError as error:
        LOGGER.warning("leaderboard: %s; its rows are placed by value", error)
        paired.clear()
    for i, record in enumerate(records):
        others = (other for j, other in enumerate(records) if not {i, j} <= paired)
        better[i] += sum(other.main.goodness > record.main.goodness for other in others)
    return [1 + better[i] for i in range(len(records))], [i in paired for i in range(len(records))]


def _beaten(pairs: Sequence[tuple[Result, Sequence[Answer]]]) -> list[int]:
    """The number of better ones for each of several records with answers to the same items."""
    first, answers = pairs[0]
    metric = metric_of(first, first.main_metric, answers)
    systems = [metric_of(record, record.main_metric, rows).system(rows) for record, rows in pairs]
    units = Units.of(metric.units(answers))
    return beaten_by(systems, units, metric.bounds, higher_is_better=first.main.higher_is_better)


def by_id(answers: Sequence[Answer]) -> list[Answer]:
    """Return answers in the order of their ids."""
    return sorted(answers, key=lambda answer: answer["id"])


def test_items(result: Result, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return what two records must have answered to be paired, from answers sorted by id."""
    names = tuple(answer["id"] for answer in answers)
    if any_reference(result):
        return names
    return names + tuple(answer["reference"] for answer in answers)


def any_reference(result: Result) -> bool:
    """Return whether each answer has its nearest reference (only in old records)."""
    return result.recipe.get("pronunciations") == "all"
