"""The page of a report: one HTML file that needs no other file, no network and no JavaScript."""

import itertools
import re
from collections.abc import Callable, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mt4ssl_bench.report.collect import Content
from mt4ssl_bench.report.figures import COLORS, MARKERS
from mt4ssl_bench.report.head_panels import layer_scores, layer_weights, sweeps
from mt4ssl_bench.report.parts import Cell, Grid, Group, Looks, Section, model, with_interval
from mt4ssl_bench.report.record_details import detail
from mt4ssl_bench.report.run_panels import AXES, over, overview, table_of
from mt4ssl_bench.report.score_panels import (
    Board,
    differences,
    forests,
    quality_over_cost,
    without_cost,
)
from mt4ssl_bench.results import suite_formats
from mt4ssl_bench.results.leaderboard import Leaderboard, names_of
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.suite_table import SuiteLine, SuiteTable
from mt4ssl_bench.text import flat

SVG = re.compile(r"<svg .*?</svg>", re.DOTALL)
NO_RECORD = (
    "No record was given; 'mt4ssl-bench evaluate MODEL --task TASK --corpus CORPUS --out results' "
    "makes one."
)

# anchor, title, what it shows, why it may be empty, and its group for a corpus
OF_BOARDS: tuple[tuple[str, str, str, str, Callable[[Board, Looks, Content], Group]], ...] = (
    (
        "scores",
        "Scores with intervals",
        "Best at the top. Lines are 95 % intervals.",
        NO_RECORD,
        lambda board, looks, _: forests(board, looks),
    ),
    (
        "differences",
        "Differences to the best",
        (
            "Each model minus the best one, by a paired bootstrap over the same utterances. An "
            "interval that holds 0 (bold) shows no difference."
        ),
        "No two models have a record of the same task, recipe and corpus.",
        differences,
    ),
    (
        "cost",
        "Quality over cost",
        "The dashed line is the front: no other model is as good and as cheap.",
        NO_RECORD,
        lambda board, looks, content: quality_over_cost(board, looks, content.costs),
    ),
    (
        "sweeps",
        "Learning rates",
        "The score of every head on validation.",
        "No record has a sweep.",
        lambda board, looks, _: sweeps(board, looks),
    ),
    (
        "weights",
        "Layer weights",
        (
            "The part of each hidden state in the sum that a head reads: softmax weight x mean "
            "norm, or the weight only in records without norms."
        ),
        "No record has the weights of several layers.",
        lambda board, looks, _: layer_weights(board, looks),
    ),
    (
        "layers",
        "Scores by layer",
        "ABX and other scores of single layers.",
        "No record has scores of layers; tasks such as abx, or the key layers=all, give them.",
        lambda board, looks, _: layer_scores(board, looks),
    ),
)


def render(content: Content, suites: Sequence[SuiteTable] = ()) -> str:
    """Return the page of records, runs and costs, and of the tables of suites."""
    names = names_of(content.records)
    runs = run_names(content)
    looks = Looks.of([*names.values(), *runs])
    board = Leaderboard(content.records, content.answers)
    boards = [Board.of(table, content.records) for table in board.tables]
    details = [
        detail(
            record,
            content.answers(record),
            names[record.upstream["fingerprint"]],
            looks,
            records=len(content.records),
        )
        for record in reversed(content.records)
    ]
    sections = [
        _leaderboards(boards, suites, looks, board.dry_runs),
        *_of_boards(boards, looks, content),
        _pretraining(content, runs, looks),
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    environment.finalize = _one_line
    page = environment.from_string(_file("template.html")).render(
        sections=sections,
        details=details,
        problems=list(map(flat, content.problems)),
        number=len(content.records),
        runs=len(content.runs),
        models=len(looks.numbers),
        newest=content.records[-1].created if content.records else "",
        style=Markup(_file("style.css")),  # noqa: S704 - our own files
        script=Markup(_file("script.js")),  # noqa: S704
        colors=COLORS,
        markers=len(MARKERS),
    )
    figures = itertools.count()
    page = SVG.sub(lambda found: _with_own_ids(found.group(), next(figures)), page)
    return re.sub(r"\n\s*\n+", "\n", page)


def _with_own_ids(svg: str, number: int) -> str:
    """Return an SVG with short ids that no other one of the page has."""
    names = dict.fromkeys(re.findall(r'\bid="(\w+)"', svg))
    for index, name in enumerate(names):
        svg = svg.replace(f'"{name}"', f'"f{number}-{index}"')
        svg = svg.replace(f'"#{name}"', f'"#f{number}-{index}"')
    return svg


def run_names(content: Content) -> list[str]:
    """Return a name for each run: its folder's, with the folder above where several share it."""
    names = [each.name for each in content.runs]
    return [
        name if names.count(name) == 1 else "/".join(each.run.folder.resolve().parts[-2:])
        for name, each in zip(names, content.runs, strict=True)
    ]


def _one_line(value: object) -> object:
    """Return a text without control characters; marked-up parts of the page stay."""
    return flat(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _leaderboards(
    boards: Sequence[Board], suites: Sequence[SuiteTable], looks: Looks, partial: Sequence[str]
) -> Section:
    groups = [
        Group(title=board.table.title, grids=[_board(board, looks)], notes=board.table.notes())
        for board in boards
    ]
    groups[:0] = [
        Group(title=table.title, grids=[_suite(table, looks)], notes=suite_formats.notes(table))
        for table in suites
    ]
    if partial:
        groups.append(Group(title="partial results (--limit), not ranked", notes=partial))
    return Section(
        anchor="leaderboards",
        title="Leaderboards",
        about="Bold: the best value of a column. In brackets: 95 % interval.",
        empty=NO_RECORD,
        groups=groups,
    )


def _board(board: Board, looks: Looks) -> Grid:
    """Return the leaderboard of a corpus."""
    table = board.table
    rows = []
    for row in table.rows:
        rank, name, size, *tasks = table.about(row)
        rows.append(
            [
                model(name, looks, best=row.rank == 1),
                Cell(rank, row.rank),
                Cell(size, row.parameters),
                *map(Cell, tasks),
                *(
                    with_interval(cell.score, best=cell.best) if cell else Cell("-")
                    for cell in row.cells
                ),
            ]
        )
    rank, name, *headings = table.headings()
    return Grid(about=table.title, headings=[name, rank, *headings], rows=rows, wide=True)


def _suite(table: SuiteTable, looks: Looks) -> Grid:
    """Return the table of a suite, published rows apart."""
    best = [_best([line.cells[i] for line in table.lines]) for i in range(len(table.columns))]

    def row(line: SuiteLine) -> list[Cell]:
        _, size, *texts = suite_formats.cells(table, line)
        about = [line.points, line.rank] if table.pointed else [line.rank]
        values = [*about, *(c.value if isinstance(c, Score) else c for c in line.cells)]
        tops = [None] * len(about) + best
        numbers = [
            Cell(text.whole, value, isinstance(top, float) and value == top)
            for text, value, top in zip(texts, values, tops, strict=True)
        ]
        name = Cell(line.upstream) if line.source else model(line.upstream, looks)
        return [name, Cell(size.whole, line.parameters), *numbers]

    return Grid(
        about=table.title,
        headings=suite_formats.headings(table),
        rows=[row(line) for line in table.lines if not line.source],
        apart=[row(line) for line in table.lines if line.source],
        divide="published",
        wide=True,
    )


def _best(cells: Sequence[Score | float | None]) -> float | None:
    """Return the best measured value of a column; published rows are not compared."""
    scores = [cell for cell in cells if isinstance(cell, Score)]
    return max(scores, key=lambda score: score.goodness).value if scores else None


def _of_boards(boards: Sequence[Board], looks: Looks, content: Content) -> list[Section]:
    """Return the sections with a group for each corpus."""
    sections = []
    for anchor, title, about, empty, group_of in OF_BOARDS:
        groups = [group_of(board, looks, content) for board in boards]
        sections.append(
            Section(
                anchor=anchor,
                title=title,
                about=about,
                empty=empty if boards else NO_RECORD,
                groups=[group for group in groups if group.panels or group.notes],
                notes=without_cost(boards, content.costs) if anchor == "cost" else (),
            )
        )
    return sections


def _pretraining(content: Content, names: Sequence[str], looks: Looks) -> Section:
    groups = []
    if runs := content.runs:
        grids = [overview(runs, names, looks)]
        grids += [table_of(each, name) for each, name in zip(runs, names, strict=True)]
        lost = [
            f"{name}: {each.unreadable} lines of the log cannot be read"
            for each, name in zip(runs, names, strict=True)
            if each.unreadable
        ]
        lost += [
            f"{name}: no lines in its log"
            for each, name in zip(runs, names, strict=True)
            if not each.lines
        ]
        groups = [Group(title="runs", grids=grids, notes=lost)]
        groups += [over(axis, runs, names, looks) for axis in AXES]
    return Section(
        anchor="pretraining",
        title="Pretraining",
        about="Logged values, thinned to evenly spaced lines of each log.",
        empty="No pretraining run was given; 'mt4ssl-bench pretrain ... --out runs/NAME' "
        "makes one.",
        groups=groups,
    )
