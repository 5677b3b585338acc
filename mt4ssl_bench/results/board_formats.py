"""Leaderboards as tables to be shown, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from mt4ssl_bench.results.grid import Entry, Grid, Heading, grid
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.table import Cell, Column, Row, Table, rates
from mt4ssl_bench.text import spreadsheet


def grids(tables: Sequence[Table], dry_runs: Sequence[str]) -> list[Grid]:
    """Return the tables with the best of each column in bold, and a list of the dry runs."""
    shown = [
        Grid(
            title=table.title,
            headings=[_heading(text) for text in table.headings()],
            rows=[
                [*map(Entry, table.about(row)), *(_entry(cell) for cell in row.cells)]
                for row in table.rows
            ],
            bold="best value",
            intervals=table.interval_notes(),
            notes=table.notes(),
        )
        for table in tables
    ]
    if dry_runs:
        heading = Heading("partial results (not ranked)", "text", key=True)
        shown.append(grid("", [heading], [[line] for line in dry_runs]))
    return shown


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


def _heading(text: str) -> Heading:
    return Heading(
        text, "name" if text == "upstream" else "number", key=text in {"rank", "upstream"}
    )


def _entry(cell: Cell | None) -> Entry:
    return Entry("-") if cell is None else score_entry(cell.score, bold=cell.best)


def score_entry(score: Score, *, bold: bool = False) -> Entry:
    """Return a number with its interval; "^" marks one that is no bootstrap's."""
    value, low, high = (f"{x:.{score.digits}f}" for x in (score.value, score.low, score.high))
    formula = "" if score.method == "bootstrap" else "^"
    return Entry(value + score.spread(score.digits), f"[{low}, {high}]{formula}", bold=bold)


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
