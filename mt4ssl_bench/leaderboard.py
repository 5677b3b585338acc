"""Records to ranked tables, a pure function: one table per corpus, and no column mixes recipes."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.metrics import METRICS, Metric, Score
from mt4ssl_bench.results import CorpusRecord, Result, digest, load_all

TASK_ORDER = ("phoneme", "asr", "speaker")  # then any other task by name
SYNTHETIC = "synthetic speech: a check of the code, not a speech benchmark"
INTERVALS = "in brackets: 95 % bootstrap interval over utterances"
CSV_FIELDS = (
    "corpus,corpus_digest,synthetic,rank,upstream,fingerprint,parameters,task,metric,main,recipe,recipe_digest,mode,"
    "value,low,high,speaker_low,speaker_high,higher_is_better,errors,total,lr"
).split(",")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of one task under one recipe: the only things whose numbers may be compared.

    `recipe_digest` covers the resolved recipe, the task's version and the mode. `ranked` marks the columns that
    decide the rank: of each task the main metric, under the recipe that most rows share.
    """

    task: str
    metric: Metric
    main: bool
    recipe_name: str
    recipe_digest: str
    mode: str
    ranked: bool
    label: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one row; `lr` are the learning rates that validation chose, `best` that no row beats it."""

    score: Score
    lr: tuple[float, ...]
    best: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One upstream; `cells` stand as the table's columns do, None where it was not measured.

    `mean_rank` is over the ranked columns, among the rows that have all of them; None where one is missing.
    """

    upstream: str
    fingerprint: str
    parameters: int
    rank: int | None
    mean_rank: float | None
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows measured on one corpus, best first, then those that lack a ranked column."""

    title: str
    corpus: CorpusRecord
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def notes(self) -> list[str]:
        """Return what a reader must know: what ranks, and each recipe with its chosen learning rates."""
        ranked = ", ".join(column.label for column in self.columns if column.ranked)
        lines = [SYNTHETIC] if self.corpus["synthetic"] else []
        lines.append(f"{INTERVALS}; rank: mean rank over {ranked}")
        for index, column in enumerate(self.columns):
            if column.main:
                cells = ((row.upstream, row.cells[index]) for row in self.rows)
                rates = ", ".join(f"{name} {_rates(cell)}" for name, cell in cells if cell)
                recipe = f"{column.recipe_name} ({column.recipe_digest}), {column.mode}"
                lines.append(f"{column.task}: recipe {recipe}; lr: {rates}")
        return lines


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A record made with a limit on the utterances: listed, never ranked."""

    upstream: str
    fingerprint: str
    corpus: str
    task: str
    metric: str
    value: float
    recipe_name: str
    limit: int


class Leaderboard:
    """The ranked tables of a list of records.

    Attributes:
        tables: one per corpus digest, by name.
        dry_runs: the records with a limit.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        names = _names(results)
        by_corpus: defaultdict[str, list[Result]] = defaultdict(list)
        for result in sorted(results, key=lambda result: result.created):
            if result.limit is None:
                by_corpus[result.corpus["digest"]].append(result)
        tables = [_table(records, names) for records in by_corpus.values()]
        self.tables = sorted(tables, key=lambda table: (table.corpus["name"], table.corpus["digest"]))
        self.dry_runs = [_dry_run(result, names) for result in results if result.limit is not None]

    @classmethod
    def from_folder(cls, folder: Path) -> "Leaderboard":
        """Rank the records of a folder; raises BenchError where there is none, CheckpointError for a damaged one."""
        results = load_all(folder)
        if not results:
            raise BenchError(f'no result records in {folder}; make one with "mt4ssl-bench evaluate"')
        return cls(results)

    def to_rich(self) -> RenderableType:
        """Return the tables for a rich console, the best of each column in bold."""
        parts: list[RenderableType] = []
        for table in self.tables:
            grid = RichTable(title=table.title, title_justify="left", title_style="bold")
            for heading in _headings(table):
                grid.add_column(Text(heading), justify="left" if heading == "upstream" else "right")
            for row in table.rows:
                bold = ["", "", "", *("bold" if cell and cell.best else "" for cell in row.cells)]
                grid.add_row(*(Text(text, style) for text, style in zip(_texts(row), bold, strict=True)))
            parts += [grid, *(Text(note) for note in table.notes()), Text()]
        parts += [Text(line) for line in self._dry_lines()]
        return Group(*parts)

    def to_markdown(self) -> str:
        """Return the tables in GitHub's Markdown, the best of each column in bold."""
        lines: list[str] = []
        for table in self.tables:
            headings = _headings(table)
            lines += [f"### {table.title}", "", _markdown_row(headings)]
            lines.append(_markdown_row(":--" if heading == "upstream" else "--:" for heading in headings))
            for row in table.rows:
                texts = _texts(row)
                for index, cell in enumerate(row.cells, start=len(texts) - len(row.cells)):
                    value, _, interval = texts[index].partition(" ")
                    texts[index] = f"**{value}** {interval}" if cell and cell.best else texts[index]
                lines.append(_markdown_row(texts))
            lines += ["", *(f"* {note}" for note in table.notes()), ""]
        heading, *dry = self._dry_lines() or [""]
        lines += [f"### {heading}", "", *(f"* {line}" for line in dry), ""] if heading else []
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Return one line per upstream, corpus, recipe and metric, without the dry runs."""
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for table in self.tables:
            corpus = {"corpus": table.corpus["name"], "corpus_digest": table.corpus["digest"]}
            for row in table.rows:
                for column, cell in zip(table.columns, row.cells, strict=True):
                    if cell is None:
                        continue
                    names = {"metric": column.metric.name, "recipe": column.recipe_name, "lr": _rates(cell)}
                    known = asdict(row) | asdict(column) | asdict(cell.score) | corpus | names
                    writer.writerow(known | {"synthetic": table.corpus["synthetic"]})
        return text.getvalue()

    def to_json(self) -> str:
        """Return everything, `cells` in the order of `columns`, as JSON."""
        content = {"tables": [asdict(table) for table in self.tables]}
        return json.dumps(content | {"dry_runs": [asdict(run) for run in self.dry_runs]}, indent=2)

    def _dry_lines(self) -> list[str]:
        lines = [
            f"{run.upstream}: {run.task} {run.metric.upper()} {run.value:.1f} % "
            f"(limit {run.limit}, recipe {run.recipe_name}, corpus {run.corpus})"
            for run in self.dry_runs
        ]
        return ["dry runs (not ranked)", *lines] if lines else []


def _names(results: Sequence[Result]) -> dict[str, str]:
    """Fingerprint to shown name: the newest record's, with "@" and 6 digits where several models share it."""
    latest = {result.upstream["fingerprint"]: result.upstream["name"] for result in sorted(results, key=_age)}
    shared = list(latest.values())
    return {
        fingerprint: f"{name}@{fingerprint[:6]}" if shared.count(name) > 1 else name
        for fingerprint, name in latest.items()
    }


def _age(result: Result) -> str:
    return result.created


def _recipe(result: Result) -> tuple[str, str, str]:
    """What a column's numbers must share: task, recipe name, and the digest of all that the recipe says."""
    content = [result.recipe, result.task_version, result.mode]
    return result.task, result.recipe_name, digest(content)[:8]


def _table(records: Sequence[Result], names: dict[str, str]) -> Table:
    """The table of one corpus from its records, oldest first: of repeated ones the newest counts."""
    found = {(result.upstream["fingerprint"], _recipe(result)): result for result in records}
    columns = _columns(list(found.values()))
    best: dict[Column, float] = {}
    measured: defaultdict[str, dict[Column, Score]] = defaultdict(dict)
    for (fingerprint, recipe), result in found.items():
        for column in columns:
            score = result.metrics.get(column.metric.name)
            if score and recipe == (column.task, column.recipe_name, column.recipe_digest):
                measured[fingerprint][column] = score
                best[column] = max(best.get(column, -float("inf")), _good(score))
    ranks = _mean_ranks(measured, [column for column in columns if column.ranked])
    rows = []
    for fingerprint, scores in measured.items():
        cells: list[Cell | None] = []
        for column in columns:
            if column not in scores:
                cells.append(None)
                continue
            result = found[fingerprint, (column.task, column.recipe_name, column.recipe_digest)]
            rates = tuple(sorted({trial["lr"] for trial in result.sweep if trial["chosen"]}))
            score = scores[column]
            cells.append(Cell(score=score, lr=rates, best=_good(score) == best[column]))
        mean = ranks.get(fingerprint)
        rows.append(
            Row(
                upstream=names[fingerprint],
                fingerprint=fingerprint,
                parameters=next(r.upstream["parameters"] for (f, _), r in found.items() if f == fingerprint),
                rank=None if mean is None else 1 + sum(other < mean for other in ranks.values()),
                mean_rank=mean,
                cells=tuple(cells),
            )
        )
    return Table(
        title=_title(records),
        corpus=records[-1].corpus,
        columns=tuple(columns),
        rows=tuple(sorted(rows, key=lambda row: (row.rank or len(rows) + row.cells.count(None), row.upstream))),
    )
