"""The table of a suite: one row an upstream, the metrics of all tasks, and SUPERB's points.

A pure function of records. Published rows stand in it where a column's corpus is SUPERB's own.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import TypedDict, cast

from mt4ssl_bench.results.leaderboard import names_of, read_folder
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.ranking import Answers, places
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import answers_beside
from mt4ssl_bench.results.suite import Suite, SuiteRow

Values = Mapping[str, Mapping[str, float]]  # by SUPERB's abbreviation and metric
Group = tuple[str, str]  # of comparable records of a suite's row: corpus digest, protocol


class Anchors(TypedDict):
    """The values of a metric that have 0 and 1000 points."""

    fbank: float
    sota: float


class SuperbTask(TypedDict):
    """A task of SUPERB: its corpus by source and size, and the anchors of its metrics."""

    task: str
    source: str
    utterances: dict[str, int]
    metrics: dict[str, Anchors]


class Published(TypedDict):
    """A published row, with its score."""

    upstream: str
    params_m: float
    score: float
    source: str
    values: Values


class Superb(TypedDict):
    """The content of superb.json."""

    about: str
    rule: str
    tasks: dict[str, SuperbTask]
    rows: list[Published]


@cache
def superb() -> Superb:
    """Return SUPERB's published rows and the anchors of its score."""
    file = resources.files("mt4ssl_bench.results") / "superb.json"
    return cast("Superb", json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class SuiteColumn:
    """One metric of one row of the suite.

    Attributes:
        row: Of the suite.
        metric: Name in the records.
        label: The heading.
        short: SUPERB's abbreviation if recipe and corpus are SUPERB's own, else "".
    """

    row: SuiteRow
    metric: str
    label: str
    short: str


@dataclass(frozen=True, kw_only=True)
class SuiteLine:
    """One upstream.

    Attributes:
        upstream: Its name.
        parameters: Number of weights.
        cells: In the order of the columns; a published number has no interval.
        points: See SuiteTable.pointed; None without all of them.
        rank: Mean place over the columns that all measured rows share; None if published.
        source: Of a published row, else "".
    """

    upstream: str
    parameters: float
    cells: tuple[Score | float | None, ...]
    points: float | None = None
    rank: float | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class SuiteTable:
    """The lines of a suite, best first, then published ones; `pointed` tasks have points."""

    title: str
    columns: tuple[SuiteColumn, ...]
    lines: tuple[SuiteLine, ...]
    pointed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def points(self) -> str:
        """The heading of the points; SUPERB's score is over its ten tasks only."""
        whole = set(self.pointed) == set(superb()["tasks"])
        return "SUPERB score" if whole else f"points ({'+'.join(self.pointed)})"


def points(values: Values, tasks: Sequence[str]) -> float | None:
    """Return the mean points of tasks, None if a value is missing.

    A metric has 1000 * (value - fbank) / (sota - fbank) points; two metrics of a task are averaged
    (superbbenchmark.org).
    """
    of_tasks = []
    for task in tasks:
        own = []
        for metric, anchors in superb()["tasks"][task]["metrics"].items():
            value = values.get(task, {}).get(metric)
            if value is None:
                return None
            span = anchors["sota"] - anchors["fbank"]
            own.append(1000 * (value - anchors["fbank"]) / span)
        of_tasks.append(fmean(own))
    return fmean(of_tasks) if of_tasks else None


def build(
    name: str,
    suite: Suite,
    records: Sequence[Result],
    answers: Answers,
    as_shipped: Callable[[Result], bool],
) -> SuiteTable:
    """Return the table of a suite.

    Args:
        name: Of the suite.
        suite: Its rows.
        records: All of a results folder, oldest first: of repeated evaluations the newest counts.
        answers: Return those beside a record, for places.
        as_shipped: Return whether a record has the settings of its recipe.
    """
    measured, notes = [], list[str]()
    for row in suite.rows:
        found, note = _records_of(row, records)
        notes += [note] if note else []
        if found:
            measured.append(_Measured(row, found, _superbs_own(found.values(), as_shipped)))
    models = {mark: each for part in measured for mark, each in part.records.items()}
    shared = [part for part in measured if part.records.keys() == models.keys()]
    pointed = tuple(dict.fromkeys(part.short for part in shared if part.short))
    ranks, names = _ranks([part.records for part in shared], answers), names_of(records)
    lines = []
    for mark, newest in models.items():
        cells = [cell for part in measured for cell in part.cells(mark)]
        values = {part.short: part.values(mark) for part in measured if mark in part.records}
        lines.append(
            SuiteLine(
                upstream=names[mark],
                parameters=newest.upstream["parameters"],
                cells=tuple(cells),
                points=points(values, pointed),
                rank=ranks.get(mark),
            )
        )
    lines.sort(key=lambda line: (-(line.points or 0.0), line.rank or 0.0, line.upstream))
    columns = tuple(column for part in measured for column in part.columns)
    return SuiteTable(
        title=f"suite {name}: {suite.about}".removesuffix(": "),
        columns=columns,
        lines=(*lines, *_published(columns, pointed)),
        pointed=pointed,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Measured:
    """A row of the suite with its records by fingerprint; `short` as in SuiteColumn."""

    row: SuiteRow
    records: Mapping[str, Result]
    short: str

    @property
    def columns(self) -> list[SuiteColumn]:
        """The main metric, and every metric that has points."""
        *_, newest = self.records.values()
        wanted = superb()["tasks"][self.short]["metrics"] if self.short else {newest.main_metric}
        name = self.short or f"{self.row.task} ({self.row.corpus})"
        return [
            SuiteColumn(
                row=self.row, metric=metric, label=f"{name} {score.label}", short=self.short
            )
            for metric, score in newest.metrics.items()
            if metric in wanted
        ]

    def cells(self, mark: str) -> list[Score | None]:
        """Return the scores of an upstream, in the order of the columns."""
        result = self.records.get(mark)
        metrics = result.metrics if result else {}
        return [metrics.get(column.metric) for column in self.columns]

    def values(self, mark: str) -> dict[str, float]:
        """Return the values of an upstream that was measured, by metric."""
        return {name: score.value for name, score in self.records[mark].metrics.items()}


def from_folder(
    name: str, suite: Suite, folder: Path, as_shipped: Callable[[Result], bool]
) -> SuiteTable:
    """Return the table of a suite, of a folder's records; see build().

    Raises:
        BenchError: If the folder has no record.
        CheckpointError: If one is damaged.
    """
    return build(name, suite, read_folder(folder), answers_beside, as_shipped)


def _records_of(row: SuiteRow, records: Sequence[Result]) -> tuple[dict[str, Result], str]:
    """Return the comparable records of a suite's row by fingerprint, and a note on others.

    They are those of the corpus whose name or folder the row names; of several digests or settings,
    those that most upstreams share, the newest of equal ones.
    """
    own = [
        record
        for record in records
        if (record.task, record.recipe_name) == (row.task, row.recipe_name)
        and row.corpus in {record.corpus["name"], record.corpus.get("folder")}
        and record.limit is None
    ]
    groups: dict[Group, dict[str, Result]] = {}
    for record in own:
        group = record.corpus["digest"], record.protocol
        models = groups.pop(group, {})
        models.pop(record.upstream["fingerprint"], None)
        groups[group] = models | {record.upstream["fingerprint"]: record}
    if not groups:
        return {}, f"no record of {row.task}, recipe {row.recipe_name}, on {row.corpus}"
    *others, chosen = sorted(groups.values(), key=len)
    left = sum(map(len, others))
    note = (
        f"{row.task} on {row.corpus}: {left} records of another corpus or other settings left out"
    )
    return chosen, note if left else ""


def _superbs_own(records: Iterable[Result], as_shipped: Callable[[Result], bool]) -> str:
    """Return SUPERB's abbreviation if recipe and corpus of comparable records are its own."""
    *_, record = records
    for short, task in superb()["tasks"].items():
        splits = record.corpus["splits"]
        if (
            (record.task, record.recipe_name) == (task["task"], task["task"])
            and record.corpus.get("source") == task["source"]
            and all(
                role in splits and splits[role]["utterances"] == count
                for role, count in task["utterances"].items()
            )
            and as_shipped(record)
        ):
            return short
    return ""


def _ranks(shared: Sequence[Mapping[str, Result]], answers: Answers) -> dict[str, float]:
    """Return each upstream's mean place over the rows that all have."""
    sums = Counter[str]()
    for found in shared:
        column, _ = places(list(found.values()), answers)
        sums.update(dict(zip(found, column, strict=True)))
    return {mark: total / len(shared) for mark, total in sums.items()}


def _published(columns: Sequence[SuiteColumn], pointed: Sequence[str]) -> list[SuiteLine]:
    """Return the published rows, where a column's corpus is SUPERB's own."""
    if not any(column.short for column in columns):
        return []
    lines = [
        SuiteLine(
            upstream=row["upstream"],
            parameters=row["params_m"] * 1e6,
            cells=tuple(
                row["values"].get(column.short, {}).get(column.metric) for column in columns
            ),
            points=points(row["values"], pointed),
            source=row["source"],
        )
        for row in superb()["rows"]
    ]
    return sorted(lines, key=lambda line: -(line.points or 0.0))
