"""Records to ranked tables, a pure function: one table per corpus, and no column mixes recipes."""

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.metrics import METRICS, Metric, Score
from mt4ssl_bench.results import CorpusRecord, Result, load_all, one_model_each

Recipe = tuple[
    str, str, str
]  # task, recipe name, recipe digest: what the numbers of a column share
Found = dict[Recipe, Result]  # the records of one upstream

TASK_ORDER = ("phoneme", "asr", "speaker")  # then any other task by name
SYNTHETIC = "synthetic speech: a check of the code, not a speech benchmark"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of one task under one recipe: the only things whose numbers may be compared.

    `recipe` is the task, the recipe's name and a digest of its settings, the task's version and mode.
    `ranked` marks what decides the rank: each task's main metric, under the recipe that most rows share.
    """

    recipe: Recipe
    metric: Metric
    mode: str
    label: str
    main: bool
    ranked: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of one row; `lr` are the learning rates that validation chose, `best`: no row beats it."""

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

    def headings(self) -> list[str]:
        """Return the headings of the first three columns and of the metrics."""
        return ["rank", "upstream", "params (M)", *(column.label for column in self.columns)]

    def notes(self) -> list[str]:
        """Return what a reader must know: what ranks, and each recipe with its chosen learning rates."""
        ranked = ", ".join(column.label for column in self.columns if column.ranked)
        lines = [SYNTHETIC] if self.corpus["synthetic"] else []
        lines.append(
            f"in brackets: 95 % bootstrap interval over utterances; rank: mean rank over {ranked}"
        )
        for index, column in enumerate(self.columns):
            if column.main:
                shown = (
                    f"{row.upstream} {_rates(cell)}"
                    for row in self.rows
                    if (cell := row.cells[index])
                )
                task, name, mark = column.recipe
                lines.append(
                    f"{task}: recipe {name} ({mark}), {column.mode}; lr: {', '.join(shown)}"
                )
        return lines


class Leaderboard:
    """The ranked tables of a list of records.

    Attributes:
        tables: one per corpus digest, by title.
        dry_runs: one line for each record made with a limit; these are never ranked.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        results = sorted(one_model_each(results), key=lambda result: result.created)
        names = _names(results)
        corpora: defaultdict[str, list[Result]] = defaultdict(list)
        for result in results:
            if result.limit is None:
                corpora[result.corpus["digest"]].append(result)
        tables = (_table(records, names) for records in corpora.values())
        self.tables = sorted(tables, key=lambda table: table.title)
        self.dry_runs = [_dry_run(result, names) for result in results if result.limit is not None]

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Leaderboard":
        """Rank a folder's records; raises BenchError if there is none, CheckpointError if one is damaged."""
        results = load_all(Path(folder))
        if not results:
            raise BenchError(
                f'no result records in {folder}; make one with "mt4ssl-bench evaluate"'
            )
        return cls(results)

    def to_rich(self) -> RenderableType:
        """Return the tables for a rich console, the best of each column in bold."""
        parts: list[RenderableType] = []
        for table in self.tables:
            grid = RichTable(title=table.title, title_justify="left", title_style="bold")
            for heading in table.headings():
                name = (
                    heading == "upstream"
                )  # never cut: in a narrow terminal the numbers wrap first
                grid.add_column(Text(heading), justify="left" if name else "right", no_wrap=name)
            for row in table.rows:
                cells = (
                    Text(_text(cell), "bold" if cell and cell.best else "") for cell in row.cells
                )
                grid.add_row(*(Text(text) for text in _about(row)), *cells)
            parts += [grid, *(Text(note) for note in table.notes()), Text()]
        if self.dry_runs:
            parts += [
                Text("dry runs (not ranked)", "bold"),
                *(Text(line) for line in self.dry_runs),
            ]
        return Group(*parts)

    def to_markdown(self) -> str:
        """Return the tables in GitHub's Markdown, the best of each column in bold."""
        lines: list[str] = []
        for table in self.tables:
            headings = table.headings()
            lines += [f"### {table.title}", "", _markdown(headings)]
            lines.append(
                _markdown(":--" if heading == "upstream" else "--:" for heading in headings)
            )
            for row in table.rows:
                lines.append(
                    _markdown([*_about(row), *(_text(cell, bold="**") for cell in row.cells)])
                )
            lines += ["", *(f"* {note}" for note in table.notes()), ""]
        if self.dry_runs:
            lines += ["### dry runs (not ranked)", "", *(f"* {line}" for line in self.dry_runs), ""]
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Return one line per upstream, corpus, recipe and metric, without the dry runs."""
        lines = [
            _csv_line(table, row, column, cell)
            for table in self.tables
            for row in table.rows
            for column, cell in zip(table.columns, row.cells, strict=True)
            if cell
        ]
        writer = csv.DictWriter(
            text := io.StringIO(), list(lines[0]) if lines else [], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()

    def to_json(self) -> str:
        """Return everything as JSON; a row's `cells` stand in the order of `columns`."""
        tables = [asdict(table) for table in self.tables]
        return json.dumps(
            {"tables": tables, "dry_runs": self.dry_runs}, ensure_ascii=False, indent=2
        )


def _names(results: Sequence[Result]) -> dict[str, str]:
    """Fingerprint to shown name: the newest record's, with "@" and 6 digits where several models share it."""
    newest = {result.upstream["fingerprint"]: result.upstream["name"] for result in results}
    shared = Counter(newest.values())
    return {
        mark: f"{name}@{mark[:6]}" if shared[name] > 1 else name for mark, name in newest.items()
    }


def _table(records: Sequence[Result], names: dict[str, str]) -> Table:
    """The table of one corpus; `records` come oldest first: of repeated evaluations the newest counts."""
    models: defaultdict[str, Found] = defaultdict(dict)
    for result in records:
        recipe = result.identity.protocol[:8]
        models[result.upstream["fingerprint"]][result.task, result.recipe_name, recipe] = result
    columns = _columns(models.values())
    scores = {mark: [_score(found, column) for column in columns] for mark, found in models.items()}
    tops = [max(map(_good, column)) for column in zip(*scores.values(), strict=True)]
    ranks = _mean_ranks(scores, [index for index, column in enumerate(columns) if column.ranked])
    rows = [
        Row(
            upstream=names[mark],
            fingerprint=mark,
            parameters=next(iter(found.values())).upstream["parameters"],
            rank=1 + sum(other < ranks[mark] for other in ranks.values())
            if mark in ranks
            else None,
            mean_rank=ranks.get(mark),
            cells=tuple(
                _cell(found, column, top) for column, top in zip(columns, tops, strict=True)
            ),
        )
        for mark, found in models.items()
    ]
    rows.sort(key=lambda row: (row.rank is None, row.rank or row.cells.count(None), row.upstream))
    return Table(
        title=_title(records), corpus=records[-1].corpus, columns=tuple(columns), rows=tuple(rows)
    )


def _columns(models: Collection[Found]) -> list[Column]:
    """Columns in the order of tasks; within a task the recipe that most rows share comes first, and ranks."""
    shares = Counter(recipe for found in models for recipe in found)
    newest = {recipe: result for found in models for recipe, result in found.items()}
    recipes = Counter(task for task, _, _ in shares)
    columns: list[Column] = []
    for recipe in sorted(shares, key=lambda recipe: (_place(recipe[0]), -shares[recipe], recipe)):
        task, name, mark = recipe
        result = newest[recipe]
        first = task not in {column.recipe[0] for column in columns}
        for key, score in result.metrics.items():
            metric = METRICS.get(key) or Metric(
                name=key, unit="%", higher_is_better=score.higher_is_better
            )
            label = f"{task} {metric.label}" + (
                f" ({name}@{mark[:6]})" if recipes[task] > 1 else ""
            )
            main = key == result.main_metric
            ranked = main and first
            columns.append(
                Column(
                    recipe=recipe,
                    metric=metric,
                    mode=result.mode,
                    label=label,
                    main=main,
                    ranked=ranked,
                )
            )
    return columns


def _mean_ranks(scores: dict[str, list[Score | None]], ranked: Sequence[int]) -> dict[str, float]:
    """The mean over the ranked columns of each row that has them all; equal values share the better rank."""
    full = {mark: [_good(row[i]) for i in ranked] for mark, row in scores.items()}
    full = {mark: values for mark, values in full.items() if -math.inf not in values}
    ranks = {
        mark: [1 + sum(other[i] > own for other in full.values()) for i, own in enumerate(value)]
        for mark, value in full.items()
    }
    return {mark: sum(places) / len(places) for mark, places in ranks.items()}


def _title(records: Sequence[Result]) -> str:
    """The corpus with its digest, languages and test split, by task where they are of several sizes."""
    corpus = records[-1].corpus
    sizes: defaultdict[str, set[str]] = defaultdict(set)
    for result in records:
        if test := result.corpus["splits"].get("test"):
            sizes[f"{test['utterances']} utterances, {test['hours']:.2f} h"].add(result.task)
    ordered = sorted((sorted(tasks, key=_place), size) for size, tasks in sizes.items())
    tests = [size + (f" ({', '.join(tasks)})" if len(sizes) > 1 else "") for tasks, size in ordered]
    parts = [f"{corpus['name']} ({corpus['digest'][:8]})", " ".join(corpus["languages"])]
    return "; ".join(filter(None, [*parts, f"test: {', '.join(tests)}" if tests else ""]))


def _dry_run(result: Result, names: dict[str, str]) -> str:
    value = f"{result.main_metric.upper()} {result.metrics[result.main_metric].value:.1f} %"
    made = f"limit {result.limit}, recipe {result.recipe_name}, corpus {result.corpus['name']}"
    return f"{names[result.upstream['fingerprint']]}: {result.task} {value} ({made})"


def _csv_line(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, object]:
    corpus = {f"corpus_{key}": table.corpus[key] for key in ("name", "digest", "synthetic")}
    recipe = dict(zip(("task", "recipe", "recipe_digest"), column.recipe, strict=True))
    model = {key: value for key, value in asdict(row).items() if key != "cells"}
    what = {
        "metric": column.metric.name,
        "main": column.main,
        "mode": column.mode,
        "lr": _rates(cell),
    }
    return corpus | model | recipe | what | asdict(cell.score)


def _place(task: str) -> tuple[int, str]:
    return (TASK_ORDER.index(task) if task in TASK_ORDER else len(TASK_ORDER)), task


def _good(score: Score | None) -> float:
    """The higher the better; a missing score loses against any."""
    return -math.inf if score is None else score.value if score.higher_is_better else -score.value


def _score(found: Found, column: Column) -> Score | None:
    result = found.get(column.recipe)
    return result.metrics.get(column.metric.name) if result else None


def _cell(found: Found, column: Column, top: float) -> Cell | None:
    score = _score(found, column)
    if score is None:
        return None
    rates = {trial["lr"] for trial in found[column.recipe].sweep if trial["chosen"]}
    return Cell(score=score, lr=tuple(sorted(rates)), best=_good(score) == top)


def _about(row: Row) -> list[str]:
    millions = row.parameters / 1e6
    return [
        str(row.rank or "-"),
        row.upstream,
        f"{millions:.1f}" if millions >= 1 else f"{millions:.2g}",
    ]


def _text(cell: Cell | None, bold: str = "") -> str:
    mark = bold if cell and cell.best else ""
    return (
        f"{mark}{cell.score.value:.1f}{mark} [{cell.score.low:.1f}, {cell.score.high:.1f}]"
        if cell
        else "-"
    )


def _rates(cell: Cell) -> str:
    return "/".join(f"{rate:g}" for rate in cell.lr) or "-"


def _markdown(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
