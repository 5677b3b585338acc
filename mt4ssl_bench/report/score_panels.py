"""Panels of scores: forest plots, differences to the best model, and quality over cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mt4ssl_bench.errors import some
from mt4ssl_bench.report.collect import Content, Cost
from mt4ssl_bench.report.figures import Bar, Dot, Labels, forest, scatter
from mt4ssl_bench.report.paired import differences_to_best
from mt4ssl_bench.report.parts import (
    Cell,
    Grid,
    Group,
    Looks,
    Panel,
    general,
    legend,
    model,
    number,
)
from mt4ssl_bench.results.intervals import Interval
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.table import Column, Row, Table

# the x of quality over cost: its heading, and the number of a model
AGAINST: dict[str, Callable[[Row, Cost | None], float | None]] = {
    "parameters (M)": lambda row, _: row.parameters / 1e6,
    "multiply-accumulates (G per s of audio)": lambda _, cost: (
        None if cost is None else cost["macs_per_second"] / 1e9
    ),
    "real-time factor": lambda _, cost: None if cost is None else 1 / cost["audio_per_second"],
}
NO_COST = (
    "multiply-accumulates and real-time factor: not measured of {names}; 'mt4ssl-bench "
    "check-upstream NAME --json > costs/NAME.json' measures them, and 'mt4ssl-bench report ... "
    "costs' shows them"
)


@dataclass(frozen=True, kw_only=True)
class Board:
    """The table of one corpus, with the newest record of each recipe and model."""

    table: Table
    records: dict[tuple[tuple[str, str, str], str], Result]

    @classmethod
    def of(cls, table: Table, records: Sequence[Result]) -> "Board":
        """Return the board of a table; `records` are all, oldest first."""
        own = {
            ((r.task, r.recipe_name, r.protocol[:8]), r.upstream["fingerprint"]): r
            for r in records
            if r.limit is None and r.corpus["digest"] == table.corpus["digest"]
        }
        return cls(table=table, records=own)

    def measured(self, column: Column) -> list[tuple[Row, Result]]:
        """Return the rows that have a column, with their records."""
        found = ((row, self.records.get((column.recipe, row.fingerprint))) for row in self.rows)
        return [
            (row, record) for row, record in found if record and column.metric in record.metrics
        ]

    @property
    def rows(self) -> Sequence[Row]:
        """The rows of the table."""
        return self.table.rows

    @property
    def names(self) -> list[str]:
        """The models."""
        return [row.upstream for row in self.rows]

    def main(self) -> list[Column]:
        """Return the columns of main metrics."""
        return [column for column in self.table.columns if column.main]


def forests(board: Board, looks: Looks) -> Group:
    """Return every score with its interval, a panel for each column."""
    panels = []
    for column in board.table.columns:
        scores = [(row, r.metrics[column.metric]) for row, r in board.measured(column)]
        scores.sort(key=lambda pair: (-pair[1].goodness, pair[0].upstream))
        top = scores[0][1].goodness
        bars = [
            Bar(
                name=row.upstream,
                look=looks[row.upstream],
                value=score.value,
                low=score.low,
                high=score.high,
                text=f"{score.value:.{score.digits}f}",
                best=score.goodness == top,
            )
            for row, score in scores
        ]
        about = f"{column.label} on {board.table.corpus['name']}, with 95 % intervals"
        labels = Labels(about=about, x=scores[0][1].label)
        grid = Grid(
            about=about,
            headings=["model", "value", "low", "high", "± over seeds", "interval by"],
            rows=[
                [model(row.upstream, looks), *_score_cells(score, best=score.goodness == top)]
                for row, score in scores
            ],
        )
        panels.append(Panel(title=column.label, figure=forest(bars, labels), grid=grid))
    return Group(title=board.table.title, panels=panels)


def differences(board: Board, looks: Looks, content: Content) -> Group:
    """Return each model's difference to the best one, by a paired bootstrap."""
    panels, notes = [], []
    for column in board.main():
        measured = board.measured(column)
        best, found = differences_to_best([record for _, record in measured], content.answers)
        if found:
            pairs = [(measured[index][0], *pair) for index, pair in found.items()]
            panels.append(_differences(column, measured[best], pairs, looks))
        elif len(measured) > 1:
            notes.append(f"{column.label}: no answers to the same utterances that can be paired")
    return Group(title=board.table.title, panels=panels, notes=notes)


def _differences(
    column: Column,
    best: tuple[Row, Result],
    pairs: Sequence[tuple[Row, float, Interval]],
    looks: Looks,
) -> Panel:
    name, score = best[0].upstream, best[1].main
    pairs = sorted(pairs, key=lambda each: (abs(each[1]), each[0].upstream))
    unit = "points" if score.unit == "%" else score.unit
    bars = [
        Bar(
            name=row.upstream,
            look=looks[row.upstream],
            value=value,
            low=interval.low,
            high=interval.high,
            text=f"{value:+.{score.digits}f}",
            best=interval.low <= 0 <= interval.high,
        )
        for row, value, interval in pairs
    ]
    about = f"{column.label}: difference to {name}, with 95 % intervals"
    rows = [
        [
            model(row.upstream, looks),
            number(value),
            number(interval.low),
            number(interval.high),
            Cell(interval.method),
            Cell("no difference found" if interval.low <= 0 <= interval.high else "worse"),
        ]
        for row, value, interval in pairs
    ]
    grid = Grid(
        about=about,
        headings=["model", f"minus {name}", "low", "high", "interval by", "verdict"],
        rows=rows,
    )
    labels = Labels(about=about, x=f"difference to the best, {unit}".rstrip(", "))
    return Panel(
        title=f"{column.label}: minus {name}", figure=forest(bars, labels, zero=True), grid=grid
    )


def quality_over_cost(board: Board, looks: Looks, costs: Mapping[str, Cost]) -> Group:
    """Return each task's main metric over size, operations and time, with the front."""
    panels = []
    for column in (column for column in board.main() if column.first):
        for title, of_model in AGAINST.items():
            places = [
                (row, record.metrics[column.metric], x)
                for row, record in board.measured(column)
                if (x := of_model(row, costs.get(row.fingerprint))) is not None
            ]
            if len(places) >= min(2, len(board.measured(column))):
                panels.append(_quality(column, title, places, looks))
    return Group(title=board.table.title, panels=panels, legend=legend(board.names, looks))


def without_cost(boards: Sequence[Board], costs: Mapping[str, Cost]) -> list[str]:
    """Return a note on models whose operations and time are not measured, if there are any."""
    rows = (row for board in boards for row in board.rows)
    unknown = {row.upstream for row in rows if row.fingerprint not in costs}
    return [NO_COST.format(names=some(unknown))] if unknown else []


def _quality(
    column: Column, title: str, places: Sequence[tuple[Row, Score, float]], looks: Looks
) -> Panel:
    front = [_on_front(x, score, places) for _, score, x in places]
    dots = [
        Dot(
            look=looks[row.upstream],
            x=x,
            value=score.value,
            low=score.low,
            high=score.high,
            front=ahead,
        )
        for (row, score, x), ahead in zip(places, front, strict=True)
    ]
    about = f"{column.label} over {title}"
    rows = [
        [
            model(row.upstream, looks),
            general(x),
            *_score_cells(score)[:3],
            Cell("yes" if ahead else "no", best=ahead),
        ]
        for (row, score, x), ahead in zip(places, front, strict=True)
    ]
    rows.sort(key=lambda row: (row[1].value or 0, row[0].text))
    grid = Grid(
        about=about,
        headings=["model", title, places[0][1].label, "low", "high", "on the front"],
        rows=rows,
    )
    labels = Labels(about=about, x=title, y=places[0][1].label)
    return Panel(title=about, figure=scatter(dots, labels), grid=grid)


def _on_front(x: float, score: Score, places: Sequence[tuple[Row, Score, float]]) -> bool:
    """Return whether no other model is at least as good and as cheap, and better in one."""
    return not any(
        other.goodness >= score.goodness
        and cost <= x
        and (other.goodness > score.goodness or cost < x)
        for _, other, cost in places
    )


def _score_cells(score: Score, *, best: bool = False) -> list[Cell]:
    sd = Cell("-") if score.sd is None else number(score.sd)
    value, low, high = score.value, score.low, score.high
    return [number(value, best=best), number(low), number(high), sd, Cell(score.method)]
