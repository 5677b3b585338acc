"""A suite's table to be shown, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict

from mt4ssl_bench.results.board_formats import score_entry
from mt4ssl_bench.results.grid import Entry, Grid, Heading
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.suite_table import SuiteLine, SuiteTable
from mt4ssl_bench.text import in_millions, spreadsheet

POINTS = "points: 0 for FBANK, 1000 for the best of each metric when SUPERB fixed its anchors"


def grid(table: SuiteTable) -> Grid:
    """Return the table to be shown."""
    first, *others = headings(table)
    return Grid(
        title=table.title,
        headings=[Heading(first, "name", key=True), *map(Heading, others)],
        rows=[cells(table, line) for line in table.lines],
        bold="best value of the measured upstreams",
        intervals=interval_notes(table),
        notes=notes(table),
    )


def to_csv(table: SuiteTable) -> str:
    """Return one line per upstream and metric, and one for the points."""
    names = ["upstream", "parameters", "published", "task", "recipe", "corpus", "metric", "value"]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow([*names, "low", "high", "sd", "keys"])
    for line in table.lines:
        about = [spreadsheet(line.upstream), line.parameters, line.source]
        for column, cell in zip(table.columns, line.cells, strict=True):
            row = [column.row.task, column.row.recipe_name, column.row.corpus, column.metric]
            keys = spreadsheet(" ".join(column.row.keys))
            if isinstance(cell, Score):
                writer.writerow([*about, *row, cell.value, cell.low, cell.high, cell.sd, keys])
            elif cell is not None:
                writer.writerow([*about, *row, cell, "", "", "", keys])
        if line.points is not None:
            writer.writerow([*about, "", "", "", table.points, line.points, "", "", "", ""])
    return text.getvalue()


def to_json(table: SuiteTable) -> str:
    """Return everything as JSON; a line's `cells` stand in the order of `columns`."""
    return json.dumps(asdict(table), ensure_ascii=False, indent=2)


def headings(table: SuiteTable) -> list[str]:
    """Return the headings."""
    about = ["upstream", "params (M)", *([table.points] if table.pointed else []), "mean place"]
    return [*about, *(column.label for column in table.columns)]


def cells(table: SuiteTable, line: SuiteLine) -> list[Entry]:
    """Return a line's cells, in the order of the headings."""
    name = f"{line.upstream} (published)" if line.source else line.upstream
    score = ["-" if line.points is None else f"{line.points:.0f}"] if table.pointed else []
    place = "-" if line.rank is None else f"{line.rank:.1f}".removesuffix(".0")
    about = [name, in_millions(line.parameters), *score, place]
    columns = zip(*(each.cells for each in table.lines), strict=True)
    numbers = (_entry(cell, column) for cell, column in zip(line.cells, columns, strict=True))
    return [*map(Entry, about), *numbers]


def interval_notes(table: SuiteTable) -> list[str]:
    """Return the notes on what stands in brackets."""
    scores = _scores(table)
    over = ", ".join(dict.fromkeys(score.over for score in scores))
    lines = [f"in brackets: 95 % interval over {over}"] if scores else []
    if any(score.method != "bootstrap" for score in scores):
        lines.append("^: interval by a formula instead of the bootstrap")
    return lines


def notes(table: SuiteTable) -> list[str]:
    """Return the other notes."""
    lines = []
    if any(score.sd is not None for score in _scores(table)):
        lines.append("±: standard deviation over seeds; the value is their mean")
    if any(line.rank is not None for line in table.lines):
        lines.append(
            "mean place: over the tasks that all measured upstreams have; equal places where "
            "'mt4ssl-bench compare' finds no difference"
        )
    if table.pointed:
        lines.append(f"{table.points}: {POINTS}; over the tasks that all measured upstreams have")
    sources = dict.fromkeys(line.source for line in table.lines if line.source)
    if sources:
        lines.append(
            f"published: {'; '.join(sources)}; only where recipe and corpus are SUPERB's own. "
            "Its SD and ASV are the best of several on test, ours are selected on valid; its QbE "
            "is counted by QUESST's own scorer, which has not read ours"
        )
    return [*lines, *table.notes]


def _scores(table: SuiteTable) -> list[Score]:
    return [cell for line in table.lines for cell in line.cells if isinstance(cell, Score)]


def _entry(cell: Score | float | None, column: Sequence[Score | float | None]) -> Entry:
    """Return a cell, in bold if no measured one of its column is better."""
    if isinstance(cell, Score):
        best = max(each.goodness for each in column if isinstance(each, Score))
        return score_entry(cell, bold=cell.goodness == best)
    return Entry("-" if cell is None else f"{cell:.2f}")
