"""The table of a suite: one row an upstream, the metrics of all tasks, and SUPERB's points.

A pure function of records. Published rows stand in it where a column's corpus is SUPERB's own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.results.leaderboard import names_of, read_folder
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.ranking import Answers, places
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import answers_beside
from mt4ssl_bench.results.suite import Suite, SuiteRow
from mt4ssl_bench.results.suite_records import Group, SettingsOf, records_of_rows
from mt4ssl_bench.results.superb import points, superb, superbs_own


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


def build(
    name: str,
    suite: Suite,
    records: Sequence[Result],
    answers: Answers,
    settings_of: SettingsOf,
) -> SuiteTable:
    """Return the table of a suite.

    Args:
        name: Of the suite.
        suite: Its rows.
        records: All of a results folder, oldest first: of repeated evaluations the newest counts.
        answers: Return those beside a record, for places.
        settings_of: Return the settings of a row's recipe and keys.
    """
    measured, notes = [], list[str]()
    details = row_details(suite.rows)
    for found, about in zip(
        records_of_rows(suite.rows, records, settings_of), details, strict=True
    ):
        notes += found.notes
        if found.records:
            short, note = superbs_own(list(found.records.values()), settings_of)
            notes += [note] if note else []
            measured.append(_Measured(found.row, found.records, short, about))
    models = {mark: each for part in measured for mark, each in part.records.items()}
    shared = [part for part in measured if part.records.keys() == models.keys()]
    pointed = tuple(dict.fromkeys(part.short for part in shared if part.short))
    ranks, names = _ranks([part.records for part in shared], answers), names_of(records)
    lines = []
    for mark, newest in models.items():
        cells = [cell for part in measured for cell in part.cells(mark)]
        own = [part for part in measured if mark in part.records]
        values = {part.short: part.values(mark) for part in reversed(own)}  # the first row counts
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
    """A row of the suite with its records; `short` as in SuiteColumn, `about` of row_details()."""

    row: SuiteRow
    records: Group
    short: str
    about: str

    @property
    def columns(self) -> list[SuiteColumn]:
        """The main metric, and every metric that has points."""
        *_, newest = self.records.values()
        wanted = superb()["tasks"][self.short]["metrics"] if self.short else {newest.main_metric}
        name = self.short or self.row.task
        about = ", ".join(filter(None, ["" if self.short else self.row.corpus, self.about]))
        name += f" ({about})" if about else ""
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


def row_details(rows: Sequence[SuiteRow]) -> list[str]:
    """Return for each row what tells it from others of its task and corpus: recipe, keys, place."""
    details: list[str] = []
    for place, row in enumerate(rows, 1):
        alike = [other for other in rows if (other.task, other.corpus) == (row.task, row.corpus)]
        recipe = [row.recipe_name] if len({other.recipe_name for other in alike}) > 1 else []
        keys = [key for key in row.keys if any(key not in other.keys for other in alike)]
        details.append(", ".join([*recipe, *keys]))
        names = [(other.recipe_name, other.keys) for other in alike]
        if names.count((row.recipe_name, row.keys)) > 1:
            details[-1] = ", ".join(filter(None, [details[-1], f"row {place}"]))
    return details


def from_folder(name: str, suite: Suite, folder: Path, settings_of: SettingsOf) -> SuiteTable:
    """Return the table of a suite, of a folder's records; see build().

    Raises:
        BenchError: If the folder has no record.
        CheckpointError: If one is damaged.
    """
    return build(name, suite, read_folder(folder), answers_beside, settings_of)


def _ranks(shared: Sequence[Group], answers: Answers) -> dict[str, float]:
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
