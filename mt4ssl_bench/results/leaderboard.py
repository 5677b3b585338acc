"""Records to ranked tables, a pure function: one table per corpus, and no column mixes recipes."""

import csv
import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mt4ssl_bench.errors import BenchError, CheckpointError
from mt4ssl_bench.results.ranking import Answers
from mt4ssl_bench.results.record import (
    Hypothesis,
    Result,
    load,
    load_hypotheses,
    one_model_each,
    record_paths,
)
from mt4ssl_bench.results.table import Cell, Column, Row, Table, build, rates
from mt4ssl_bench.text import flat, markdown, spreadsheet

LOGGER = logging.getLogger(__name__)


class Leaderboard:
    """The ranked tables of a list of records.

    Attributes:
        tables: one per corpus digest, by title.
        dry_runs: one line for each record made with a limit; these are never ranked.
    """

    def __init__(self, results: Sequence[Result], answers: Answers = lambda _: ()) -> None:
        """Rank `results`; without the `answers` beside a record it is placed by its values."""
        results = sorted(one_model_each(results), key=lambda result: result.created)
        names = _names(results)
        corpora: defaultdict[str, list[Result]] = defaultdict(list)
        for result in results:
            if result.limit is None:
                corpora[result.corpus["digest"]].append(result)
        tables = (build(records, names, answers) for records in corpora.values())
        self.tables = sorted(tables, key=lambda table: table.title)
        self.dry_runs = [_dry_run(result, names) for result in results if result.limit is not None]

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Leaderboard":
        """Rank a folder's records.

        Raises BenchError if there is none, CheckpointError if one is damaged.
        """
        paths = record_paths(Path(folder))
        if not paths:
            raise BenchError(
                f'no result records in {folder}; make one with "mt4ssl-bench evaluate"'
            )
        results = [load(path) for path in paths]
        files = {id(result): path for result, path in zip(results, paths, strict=True)}
        return cls(results, lambda result: _answers(files[id(result)]))

    def to_rich(self) -> RenderableType:
        """Return the tables for a rich console, the best of each column in bold."""
        parts: list[RenderableType] = []
        for table in self.tables:
            title = Text(flat(table.title))
            grid = RichTable(title=title, title_justify="left", title_style="bold")
            for heading in table.headings():
                name = (
                    heading == "upstream"
                )  # never cut: in a narrow terminal the numbers wrap first
                grid.add_column(
                    Text(flat(heading)), justify="left" if name else "right", no_wrap=name
                )
            for row in table.rows:
                cells = (
                    Text(_text(cell), "bold" if cell and cell.best else "") for cell in row.cells
                )
                grid.add_row(*(Text(flat(text)) for text in table.about(row)), *cells)
            parts += [grid, *(Text(flat(note)) for note in table.notes()), Text()]
        if self.dry_runs:
            parts += [
                Text("dry runs (not ranked)", "bold"),
                *(Text(flat(line)) for line in self.dry_runs),
            ]
        return Group(*parts)

    def to_markdown(self) -> str:
        """Return the tables in GitHub's Markdown, the best of each column in bold."""
        lines: list[str] = []
        for table in self.tables:
            headings = table.headings()
            lines += [f"### {markdown(table.title)}", "", _cells(map(markdown, headings))]
            lines.append(_cells(":--" if heading == "upstream" else "--:" for heading in headings))
            for row in table.rows:
                numbers = (_text(cell, bold="**") for cell in row.cells)
                lines.append(_cells([*map(markdown, table.about(row)), *numbers]))
            lines += ["", *(f"* {markdown(note)}" for note in table.notes()), ""]
        if self.dry_runs:
            dry_runs = (f"* {markdown(line)}" for line in self.dry_runs)
            lines += ["### dry runs (not ranked)", "", *dry_runs, ""]
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Return one line per upstream, corpus, recipe and metric, without the dry runs.

        Texts that a spreadsheet would take for a formula begin with "'".
        """
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
    """Fingerprint to shown name: the newest record's, with "@" and 6 digits where several models
    share it.
    """
    newest = {result.upstream["fingerprint"]: result.upstream["name"] for result in results}
    shared = Counter(newest.values())
    return {
        mark: f"{name}@{mark[:6]}" if shared[name] > 1 else name for mark, name in newest.items()
    }


def _answers(record: Path) -> Sequence[Hypothesis]:
    """The answers beside a record; without them the leaderboard still stands, by values."""
    try:
        return load_hypotheses(record)
    except CheckpointError as error:
        LOGGER.warning("%s; its row is placed by value", error)
        return ()


def _dry_run(result: Result, names: dict[str, str]) -> str:
    value = f"{result.main_metric.upper()} {result.metrics[result.main_metric].value:.1f} %"
    made = f"limit {result.limit}, recipe {result.recipe_name}, corpus {result.corpus['name']}"
    return f"{names[result.upstream['fingerprint']]}: {result.task} {value} ({made})"


def _csv_line(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, object]:
    corpus = {
        "corpus_name": table.corpus["name"],
        "corpus_digest": table.corpus["digest"],
        "corpus_synthetic": table.corpus["synthetic"],
    }
    recipe = dict(zip(("task", "recipe", "recipe_digest"), column.recipe, strict=True))
    model = {key: value for key, value in asdict(row).items() if key != "cells"}
    what = {
        "metric": column.metric.name,
        "main": column.main,
        "mode": column.mode,
        "lr": rates(cell),
    }
    line = corpus | model | recipe | what | asdict(cell.score)
    return {
        key: spreadsheet(value) if isinstance(value, str) else value for key, value in line.items()
    }


def _text(cell: Cell | None, bold: str = "") -> str:
    mark = bold if cell and cell.best else ""
    return (
        f"{mark}{cell.score.value:.1f}{mark} [{cell.score.low:.1f}, {cell.score.high:.1f}]"
        + ("" if cell.score.method == "bootstrap" else "^")
        if cell
        else "-"
    )


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"
