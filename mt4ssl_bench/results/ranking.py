"""Ranks of a table's rows: over the tasks that they share, and equal where no difference can be
told.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from mt4ssl_bench.results.intervals import Counts, beaten_by
from mt4ssl_bench.results.record import Hypothesis, Result

Answers = Callable[
    [Result], Sequence[Hypothesis]
]  # those beside a record; empty where there are none
Places = tuple[list[int], list[bool]]  # of each record: its place, and whether it was paired


def shared(columns: Sequence[int], rows: Mapping[str, Collection[int]]) -> list[int]:
    """Return the columns that rank: those that every row has.

    If no column is in every row, the one that most rows have decides which rows are ranked, and
    the columns that all of these share rank. A mean is never taken over unequal sets.

    Args:
        columns: the main column of each task, in order.
        rows: the columns that each row has.
    """
    most = max(columns, key=lambda column: sum(column in has for has in rows.values()))
    ranked = [has for has in rows.values() if most in has]
    return [column for column in columns if all(column in has for has in ranked)]


def places(records: Sequence[Result], answers: Answers) -> Places:
    """Return 1 + the number of better records for each, by the main metric of one column.

    Better means the verdict of `compare`: the 95 % interval of the paired bootstrap holds no 0.
    Records without answers to the same test utterances are placed by their values.
    """
    tests = [_test(record, answers(record)) for record in records]
    known = Counter(test for test, _ in tests if test)
    most = known.most_common(1)[0][0] if known else ()
    paired = [bool(most) and test == most for test, _ in tests]
    rows = [rows for (_, rows), pair in zip(tests, paired, strict=True) if pair]
    better = iter(beaten_by([stored_counts(row) for row in rows]) if rows else [])
    values = [_good(record) for record in records]
    found = [
        1
        + (next(better) if paired[i] else 0)
        + sum(other > value and not (paired[i] and paired[j]) for j, other in enumerate(values))
        for i, value in enumerate(values)
    ]
    return found, paired


def _test(result: Result, rows: Sequence[Hypothesis]) -> tuple[tuple[str, ...], list[Hypothesis]]:
    """What two records must have answered to be paired, and the answers in one order."""
    ordered = sorted(rows, key=lambda row: row["id"])
    names = tuple(row["id"] for row in ordered)
    if result.recipe.get("pronunciations") == "all":  # each answer has its nearest reference
        return names, ordered
    return names + tuple(row["reference"] for row in ordered), ordered


def _good(result: Result) -> float:
    """The higher the better."""
    score = result.metrics[result.main_metric]
    return score.value if score.higher_is_better else -score.value


def stored_counts(rows: Sequence[Hypothesis]) -> Counts:
    """Return the error counts (N, 4) of answers, in the tokens of their record's main metric."""
    counts = [
        (row["substitutions"], row["deletions"], row["insertions"], row["tokens"]) for row in rows
    ]
    return np.array(counts, dtype=np.int64).reshape(-1, 4)
