"""A suite's table for a terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.results.board_formats import ANY_WIDTH
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.suite_table import SuiteLine, SuiteTable
from mt4ssl_bench.text import flat, markdown, spreadsheet

POINTS = "points: 0 for FBANK, 1000 for the best of each metric when SUPERB fixed its anchors"


def to_rich(table: SuiteTable) -> RenderableType:
    """Return the table for a rich console; columns that do not fit stand in a table below."""
    title = Text(flat(table.title), "bold")
    return Group(title, _Fitted(table), *(Text(flat(note)) for note in notes(table)))


class _Fitted:
    """A table for a terminal, cut into several by columns where it is too wide."""

    def __init__(self, table: SuiteTable) -> None:
        self.rows = [headings(table), *(cells(table, line) for line in table.lines)]
        self.about = len(headings(table)) - len(table.columns)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        wide = options.update(max_width=ANY_WIDTH)
        parts: list[list[int]] = []
        for column in range(self.about, len(self.rows[0])):
            longer = [*parts[-1], column] if parts else [column]
            fits = console.measure(self._grid(longer), options=wide).maximum <= options.max_width
            if fits and parts:
                parts[-1] = longer
            else:
                parts.append([column])
        yield from map(self._grid, parts or [[]])

    def _grid(self, columns: Sequence[int]) -> Table:
        grid, shown = Table(), [*range(self.about), *columns]
        heading, *rows = self.rows
        for index in shown:
            grid.add_column(Text(flat(heading[index])), justify="right" if index else "left")
        for row in rows:
            grid.add_row(*(Text(flat(row[index])) for index in shown))
        return grid


def to_markdown(table: SuiteTable) -> str:
    """Return the table in GitHub's Markdown."""
    names = headings(table)
    lines = [f"### {markdown(table.title)}", ""]
    lines += [
        _row([markdown(name) for name in names]),
        _row([":--" if name == "upstream" else "--:" for name in names]),
    ]
    for line in table.lines:
        name, *numbers = cells(table, line)
        lines.append(_row([markdown(name), *numbers]))
    return "\n".join([*lines, "", *(f"* {markdown(note)}" for note in notes(table)), ""])


def to_csv(table: SuiteTable) -> str:
    """Return one line per upstream and metric, and one for the points."""
    names = ["upstream", "parameters", "published", "task", "recipe", "corpus", "metric", "value"]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow([*names, "low", "high", "sd"])
    for line in table.lines:
        about = [spreadsheet(line.upstream), line.parameters, line.source]
        for column, cell in zip(table.columns, line.cells, strict=True):
            row = [column.row.task, column.row.recipe_name, column.row.corpus, column.metric]
            if isinstance(cell, Score):
                writer.writerow([*about, *row, cell.value, cell.low, cell.high, cell.sd])
            elif cell is not None:
                writer.writerow([*about, *row, cell, "", "", ""])
        if line.points is not None:
            writer.writerow([*about, "", "", "", table.points, line.points, "", "", ""])
    return text.getvalue()


def to_json(table: SuiteTable) -> str:
    """Return everything as JSON; a line's `cells` stand in the order of `columns`."""
    return json.dumps(asdict(table), ensure_ascii=False, indent=2)


def headings(table: SuiteTable) -> list[str]:
    """Return the headings."""
    about = ["upstream", "params (M)", *([table.points] if table.pointed else []), "mean place"]
    return [*about, *(column.label for column in table.columns)]


def cells(table: SuiteTable, line: SuiteLine) -> list[str]:
    """Return a line's texts, in the order of the headings."""
    name = f"{line.upstream} (published)" if line.source else line.upstream
    score = ["-" if line.points is None else f"{line.points:.0f}"] if table.pointed else []
    place = "-" if line.rank is None else f"{line.rank:.2g}"
    numbers = [_number(cell) for cell in line.cells]
    return [name, f"{line.parameters / 1e6:.3g}", *score, place, *numbers]


def notes(table: SuiteTable) -> list[str]:
    """Return the notes below the table."""
    scores = [cell for line in table.lines for cell in line.cells if isinstance(cell, Score)]
    over = ", ".join(dict.fromkeys(score.over for score in scores))
    lines = [f"in brackets: 95 % interval over {over}"] if scores else []
    if any(score.method != "bootstrap" for score in scores):
        lines.append("^: interval by a formula instead of the bootstrap")
    if any(score.sd is not None for score in scores):
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
            "Its SD and ASV are the best of several on test, ours are selected on valid"
        )
    return [*lines, *table.notes]


def _number(cell: Score | float | None) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Score):
        value, low, high = (f"{x:.{cell.digits}f}" for x in (cell.value, cell.low, cell.high))
        formula = "" if cell.method == "bootstrap" else "^"
        return f"{value}{cell.spread(cell.digits)} [{low}, {high}]{formula}"
    return f"{cell:.2f}"


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
