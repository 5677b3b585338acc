"""Commands that read results: leaderboard, compare, show."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt4ssl_bench.cli.options import RESULTS, SuiteName
from mt4ssl_bench.console import stdout

if TYPE_CHECKING:
    from mt4ssl_bench.results.compare import Difference
    from mt4ssl_bench.results.grid import Grid
    from mt4ssl_bench.results.record import Result

app = typer.Typer()


class Format(StrEnum):
    """Formats of a leaderboard."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"
    HTML = "html"


@app.command(rich_help_panel=RESULTS)
def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder of result records.")] = Path("results"),
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.TABLE,
    *,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Print the validation score of every learning rate instead."),
    ] = False,
    suite: SuiteName = "",
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With --format latex: print the intervals, too.")
    ] = False,
) -> None:
    """Print the leaderboard of a folder of records, one table per corpus.

    With --suite, print one table over all corpora of a suite, with SUPERB's points and published
    rows where recipe and corpus are SUPERB's own.

    On a terminal, tables take its width: long names are cut in the middle, and columns that do not
    fit follow in another table. Piped output is complete: a row is one line, and no name is cut.

    latex needs the package booktabs; html has only the tables, to stand in a page.

    Example: mt4ssl-bench leaderboard results --format markdown > RESULTS.md
    """
    if intervals and form is not Format.LATEX:
        from mt4ssl_bench.errors import ConfigError

        raise ConfigError("--intervals: expected --format latex; other formats always have them")
    if sweep and (suite or form is not Format.TABLE):
        from mt4ssl_bench.errors import ConfigError

        raise ConfigError("--sweep: cannot be combined with --suite or --format; drop one")
    if suite:
        print_suite(suite, results, form, intervals=intervals)
        return
    if sweep:
        from mt4ssl_bench.results.record_files import load_all

        print_sweeps(load_all(results))
        return
    print_leaderboard(results, form, intervals=intervals)


@app.command(rich_help_panel=RESULTS)
def compare(
    a: Annotated[
        str, typer.Argument(help="Upstream, named as in the leaderboard, or a record file.")
    ],
    b: Annotated[str, typer.Argument(help="Upstream or record file to compare with.")],
    *,
    task: Annotated[str, typer.Option(help="Task or recipe, for example asr or asr_tiny.")],
    results: Annotated[Path, typer.Option(help="Folder of result records.")] = Path("results"),
) -> None:
    """Test whether two upstreams differ on a task, by a paired bootstrap over the test split.

    Prints a table for each corpus and recipe that both upstreams have, with a verdict per metric.

    Example: mt4ssl-bench compare hubert runs/first --task asr --results results
    """
    from mt4ssl_bench.downstream.task import task_named
    from mt4ssl_bench.results.compare import compare as run
    from mt4ssl_bench.results.grid import to_rich

    found = run(a, b, task=task_named(task), folder=results)
    groups = groupby(found, lambda each: (each.corpus, each.recipe))
    stdout.show(to_rich([_compared(a, b, list(group)) for _, group in groups]))


def _compared(a: str, b: str, metrics: Sequence["Difference"]) -> "Grid":
    """Return the metrics of two upstreams on one corpus and recipe, with the verdicts."""
    from mt4ssl_bench.results.grid import Entry, Grid, Heading

    rows = [
        [Entry(a), *(Entry(f"{each.a.value:.2f}{each.a.spread()}") for each in metrics)],
        [Entry(b), *(Entry(f"{each.b.value:.2f}{each.b.spread()}") for each in metrics)],
        [
            Entry("difference"),
            *(Entry(f"{d.value:+.2f}", f"[{d.low:+.2f}, {d.high:+.2f}]") for d in metrics),
        ],
    ]
    verdicts = [
        f"{each.a.label}: {each.verdict(a, b)} ({each.method} over {each.units} {each.a.over})"
        + (f"; {each.seeds}" if each.seeds else "")
        for each in metrics
    ]
    units = dict.fromkeys("points" if each.a.unit == "%" else each.a.unit for each in metrics)
    unit = f", in {' or '.join(filter(None, units))}" if any(units) else ""
    return Grid(
        title=f"{metrics[0].corpus}, {metrics[0].recipe}",
        headings=[Heading("upstream", "name", key=True), *(Heading(d.a.label) for d in metrics)],
        rows=rows,
        intervals=[f"difference: {a} minus {b}{unit}; in brackets: its paired 95 % interval"],
        notes=verdicts,
    )


@app.command(rich_help_panel=RESULTS)
def show(record: Annotated[Path, typer.Argument(help="Record file, results/*.json.")]) -> None:
    """Print one record: metrics, sweep, layer weights, confusions and the worst utterances.

    Example: mt4ssl-bench show results/phoneme-first-0123456789abcdef.json
    """
    from mt4ssl_bench.results.show import report

    stdout.show(report(record))


@app.command(rich_help_panel=RESULTS)
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders of records, pretraining runs or costs, in any order; subfolders are "
            "searched.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    suite: SuiteName = "",
) -> None:
    r"""Write records and pretraining runs as one HTML file with figures and tables.

    The file needs no network and no other file: leaderboards, scores with intervals, differences
    to the best model, quality over cost, learning rates, layer weights, scores by layer,
    pretraining curves, and the errors of each record. Each figure has a table of its numbers.
    Records and logs are told apart by their content. Files that cannot be read are left out and
    named at the top. Costs are what 'mt4ssl-bench check-upstream NAME --json' prints.

    Needs the \[report] extra.

    Example: mt4ssl-bench report results runs --out report.html
    """
    from mt4ssl_bench.downstream.suite import settings_of
    from mt4ssl_bench.report import write_report

    made = write_report(paths, out, suite=suite, settings_of=settings_of)
    stdout.print(f"{out}: {made.records} records, {made.runs} pretraining runs")
    if made.left_out:
        stdout.print(f"left out: {made.left_out} files, named at the top of the page")
    stdout.print("next: open it in a browser")


def print_suite(
    name: str, folder: Path, form: Format, *, keys: Sequence[str] = (), intervals: bool = False
) -> None:
    """Print the table of a suite, of a folder of records; `keys` are added to those of its rows."""
    from mt4ssl_bench.downstream.suite import settings_of, with_keys
    from mt4ssl_bench.results import suite_formats
    from mt4ssl_bench.results.suite import read_suite
    from mt4ssl_bench.results.suite_table import from_folder

    suite = with_keys(read_suite(name), keys)
    table = from_folder(Path(name).stem, suite, folder, settings_of)
    if form is Format.CSV:
        _write(suite_formats.to_csv(table))
    elif form is Format.JSON:
        _write(suite_formats.to_json(table))
    else:
        _print_grids([suite_formats.grid(table)], form, intervals=intervals)


def _print_grids(grids: Sequence["Grid"], form: Format, *, intervals: bool) -> None:
    from mt4ssl_bench.results import grid_formats
    from mt4ssl_bench.results.grid import to_rich

    if form is Format.TABLE:
        stdout.show(to_rich(grids))
    elif form is Format.MARKDOWN:
        _write(grid_formats.to_markdown(grids))
    elif form is Format.LATEX:
        _write(grid_formats.to_latex(grids, intervals=intervals))
    else:
        _write(grid_formats.to_html(grids))


def _write(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


@app.command(rich_help_panel=RESULTS)
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with run folders in it.")] = Path("runs"),
) -> None:
    """List the training runs below a folder: state, updates, losses, speed and time left.

    Only logs are read: no model is loaded, and running trainings are not disturbed.

    'offline 3.55/4.46' is the cross entropy of the labels and the labels' own entropy: a run whose
    cross entropy stays there has learned only how frequent each label is.

    Example: mt4ssl-bench runs runs
    """
    from mt4ssl_bench.errors import CheckpointError
    from mt4ssl_bench.results.grid import to_rich
    from mt4ssl_bench.results.runs import LOG, runs_below, table

    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one with runs in it")
    if not (found := runs_below(folder)):
        raise CheckpointError(
            f"{folder}: no {LOG} below it; expected the --out folder of 'mt4ssl-bench pretrain'"
        )
    stdout.show(to_rich([table(found, folder)]))
    for run in found:
        if run.unreadable:
            stdout.print(
                f"{run.folder}: lines at the log's end that cannot be read: {run.unreadable}"
            )


def print_leaderboard(folder: Path, form: Format, *, intervals: bool = False) -> None:
    """Print the leaderboard of a folder of records."""
    from mt4ssl_bench.results.leaderboard import Leaderboard

    board = Leaderboard.from_folder(folder)
    if form is Format.CSV:
        _write(board.to_csv())
    elif form is Format.JSON:
        _write(board.to_json())
    else:
        _print_grids(board.grids(), form, intervals=intervals)


def print_sweeps(results: Sequence["Result"]) -> None:
    """Print the validation score of every learning rate, a table per corpus and recipe."""
    from mt4ssl_bench.results.show import sweep_tables

    stdout.show(sweep_tables(results))
