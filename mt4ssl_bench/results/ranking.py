"""Places of a column's records: equal where the paired bootstrap finds no difference."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import beaten_by
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import metric_of, system_of

Answers = Callable[[Result], Sequence[Answer]]  # those beside a record; empty if there are none
Places = tuple[list[int], list[bool]]  # of each record: its place, and whether it was paired
LOGGER = logging.getLogger(__name__)


def shared(columns: Sequence[int], rows: Mapping[str, Collection[int]]) -> list[int]:
    """Return the main columns that rank: those that every row has.

    If no column is in every row, the one that most rows have decides which rows are ranked, and
    the columns that all of these share rank. A mean is never taken over unequal sets.
    """
    most = max(columns, key=lambda column: sum(column in has for has in rows.values()))
    ranked = [has for has in rows.values() if most in has]
    return [column for column in columns if all(column in has for has in ranked)]


def places(records: Sequence[Result], answers: Answers) -> Places:
    """Return 1 + the number of better records for each, by the main metric of one column.

    Better means, as in `compare`, that the paired interval excludes 0. Records without answers to
    the same test items are placed by their values, as are all if the metric is not installed.
    """
    chosen = comparable(records, answers)
    better = dict.fromkeys(range(len(records)), 0)
    paired = set(chosen)
    try:
        beaten = _beaten([(records[i], rows) for i, rows in chosen.items()]) if chosen else []
        better |= dict(zip(chosen, beaten, strict=True))
    except ConfigError as error:
        LOGGER.warning("leaderboard: %s; its rows are placed by value", error)
        paired.clear()
    for i, record in enumerate(records):
        others = (other for j, other in enumerate(records) if not {i, j} <= paired)
        better[i] += sum(other.main.goodness > record.main.goodness for other in others)
    return [1 + better[i] for i in range(len(records))], [i in paired for i in range(len(records))]


def comparable(records: Sequence[Result], answers: Answers) -> dict[int, list[Answer]]:
    """Return the answers to the most common test items, sorted by id, by the record's index."""
    answered = [sorted(answers(record), key=itemgetter("id")) for record in records]
    tests = [items_of(record, rows) for record, rows in zip(records, answered, strict=True)]
    (most, _), *_ = [*Counter(filter(None, tests)).most_common(1), ((), 0)]
    return {i: answered[i] for i, items in enumerate(tests) if items and items == most}


def _beaten(pairs: Sequence[tuple[Result, Sequence[Answer]]]) -> list[int]:
    """Return for each record how many are better; all have answers to the same items."""
    first, answers = pairs[0]
    metrics = [metric_of(record, record.main_metric, rows) for record, rows in pairs]
    systems = [system_of(each, rows) for each, (_, rows) in zip(metrics, pairs, strict=True)]
    units = metrics[0].units_of(answers)
    return beaten_by(
        systems, units, metrics[0].bounds, higher_is_better=first.main.higher_is_better
    )


def items_of(result: Result, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return the test items of sorted answers, equal for records that can be paired."""
    references = () if any_reference(result) else (answer["reference"] for answer in answers)
    return (*(answer["id"] for answer in answers), *references)


def any_reference(result: Result) -> bool:
    """Return whether each answer has its nearest reference (only in old records)."""
    return result.recipe.get("pronunciations") == "all"
