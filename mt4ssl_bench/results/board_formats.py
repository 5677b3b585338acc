"""Leaderboards for a terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from mt4ssl_bench.results.table import Cell, Column, Row, Table, rates
from mt4ssl_bench.text import flat, markdown, spreadsheet

ANY_WIDTH = 10_000  # columns: a terminal that is wide enough for every table


def to_rich(tables: Sequence[Table], dry_runs: Sequence[str]) -> RenderableType:
    """Return the tables for a rich console, the best of each column in bold."""
    parts: list[RenderableType] = []
    for table in tables:
        parts += [_Fitted(table), *(Text(flat(note)) for note in table.notes()), Text()]
    if dry_runs:
        lines = (Text(flat(line)) for line in dry_runs)
        parts += [Text("dry runs (not ranked)", "bold"), *lines]
    return Group(*parts)


def to_markdown(tables: Sequence[Table], dry_runs: Sequence[str]) -> str:
    """Return the tables in GitHub's Markdown, the best of each column in bold."""
    lines: list[str] = []
    for table in tables:
        headings = table.headings()
        lines += [f"### {markdown(table.title)}", "", _cells(map(markdown, headings))]
        lines.append(_cells(":--" if heading == "upstream" else "--:" for heading in headings))
        for row in table.rows:
            numbers = (_text(cell, bold="**") for cell in row.cells)
            lines.append(_cells([*map(markdown, table.about(row)), *numbers]))
        lines += ["", *(f"* {markdown(note)}" for note in table.notes()), ""]
    if dry_runs:
        items = (f"* {markdown(line)}" for line in dry_runs)
        lines += ["### dry runs (not ranked)", "", *items, ""]
    return "\n".join(lines)


def to_csv(tables: Sequence[Table]) -> str:
    """Return one line per upstream, corpus, recipe and metric.

    Texts that a spreadsheet would take for a formula begin with "'".
    """
    lines = [
        _csv_line(table, row, column, cell)
        for table in tables
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell
    ]
    names = list(lines[0]) if lines else []
    writer = csv.DictWriter(text := io.StringIO(), names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_json(tables: Sequence[Table], dry_runs: Sequence[str]) -> str:
    """Return everything as JSON; a row's `cells` stand in the order of `columns`."""
    content = {"tables": [asdict(table) for table in tables], "dry_runs": dry_runs}
    return json.dumps(content, ensure_ascii=False, indent=2)


class _Fitted:
    """A table for a terminal: recipes that do not fit side by side stand one below the other."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        columns = enumerate(self.table.columns)
        recipes = [[i for i, _ in each] for _, each in groupby(columns, lambda c: c[1].recipe)]
        wide = options.update(max_width=ANY_WIDTH)
        parts = [recipes[0]]
        for recipe in recipes[1:]:
            both = self._grid([*parts[-1], *recipe])
            if console.measure(both, options=wide).maximum <= options.max_width:
                parts[-1] = [*parts[-1], *recipe]
            else:
                parts.append(recipe)
        yield Text(flat(self.table.title), "bold")
        yield from map(self._grid, parts)

    def _grid(self, columns: Sequence[int]) -> RichTable:
        """Return these columns of the rows that have a number in them."""
        grid = RichTable()
        headings = self.table.headings()
        before = len(headings) - len(self.table.columns)
        for heading in [*headings[:before], *(headings[before + i] for i in columns)]:
            name = heading == "upstream"  # never cut: in a narrow terminal the numbers wrap first
            grid.add_column(Text(flat(heading)), justify="left" if name else "right", no_wrap=name)
        for row in self.table.rows:
            cells = [row.cells[i] for i in columns]
            if any(cells):
                numbers = (Text(_text(c), "bold" if c and c.best else "") for c in cells)
                grid.add_row(*(Text(flat(text)) for text in self.table.about(row)), *numbers)
        return grid


def _csv_line(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, object]:
    corpus = {
        "corpus_name": table.corpus["name"],
        "corpus_digest": table.corpus["digest"],
        "corpus_synthetic": table.corpus["synthetic"],
    }
    recipe = dict(zip(("task", "recipe", "recipe_digest"), column.recipe, strict=True))
    model = {key: value for key, value in asdict(row).items() if key != "cells"}
    number: dict[str, object] = {
        "metric": column.metric,
        "main": column.main,
        "mode": column.mode,
        "lr": rates(cell),
    }
    score = asdict(cell.score) | {"by_seed": json.dumps(cell.score.by_seed)}
    line = corpus | model | recipe | number | score
    return {
        key: spreadsheet(value) if isinstance(value, str) else value for key, value in line.items()
    }


def _text(cell: Cell | None, bold: str = "") -> str:
    if cell is None:
        return "-"
    score, mark = cell.score, bold if cell.best else ""
    value, low, high = (f"{x:.{score.digits}f}" for x in (score.value, score.low, score.high))
    formula = "" if score.method == "bootstrap" else "^"
    return f"{mark}{value}{mark}{score.spread(score.digits)} [{low}, {high}]{formula}"


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"
