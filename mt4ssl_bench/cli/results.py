"""Commands that read results: leaderboard, compare, show."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt4ssl_bench.cli.options import RESULTS, SuiteName
from mt4ssl_bench.console import stdout

if TYPE_CHECKING:
    from mt4ssl_bench.results.record import Result

app = typer.Typer()


class Format(StrEnum):
    """Formats of a leaderboard."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


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
) -> None:
    """Print the leaderboard of a folder of records, one table per corpus.

    With --suite, print one table over all corpora of a suite, with SUPERB's points and published
    rows where recipe and corpus are SUPERB's own.

    Example: mt4ssl-bench leaderboard results --format markdown > RESULTS.md
    """
    if suite:
        print_suite(suite, results, form)
        return
    if sweep:
        from mt4ssl_bench.results.record_files import load_all

        print_sweeps(load_all(results))
        return
    print_leaderboard(results, form)


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

    Prints one line per metric, corpus and recipe that both upstreams have.

    Example: mt4ssl-bench compare hubert runs/first --task asr --results results
    """
    from mt4ssl_bench.downstream.task import task_named
    from mt4ssl_bench.results.compare import compare as run

    for each in run(a, b, task=task_named(task), folder=results):
        score = each.a
        points = "points" if score.unit == "%" else score.unit
        difference = f"difference {each.value:+.2f} {points}".strip()
        stdout.print(
            f"{each.corpus}, {each.recipe}: {score.label}: {a} {score.value:.2f}{score.spread()}, "
            f"{b} {each.b.value:.2f}{each.b.spread()}; {difference}, 95 % interval "
            f"[{each.low:+.2f}, {each.high:+.2f}] "
            f"({each.method}) over {each.units} {score.over}; {each.verdict(a, b)}"
            + (f" ({each.seeds})" if each.seeds else "")
        )


@app.command(rich_help_panel=RESULTS)
def show(record: Annotated[Path, typer.Argument(help="Record file, results/*.json.")]) -> None:
    """Print one record: metrics, sweep, layer weights, confusions and the worst utterances.

    Example: mt4ssl-bench show results/phoneme-first-0123456789abcdef.json
    """
    from mt4ssl_bench.results.show import report

    stdout.print(report(record), soft_wrap=False)


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
    from mt4ssl_bench.downstream.suite import as_shipped
    from mt4ssl_bench.report import write_report

    made = write_report(paths, out, suite=suite, as_shipped=as_shipped)
    stdout.print(f"{out}: {made.records} records, {made.runs} pretraining runs")
    stdout.print("next: open it in a browser")


def print_suite(name: str, folder: Path, form: Format) -> None:
    """Print the table of a suite, of a folder of records."""
    from mt4ssl_bench.downstream.suite import as_shipped
    from mt4ssl_bench.results import suite_formats
    from mt4ssl_bench.results.suite import read_suite
    from mt4ssl_bench.results.suite_table import from_folder

    table = from_folder(Path(name).stem, read_suite(name), folder, as_shipped)
    if form is Format.TABLE:
        stdout.print(suite_formats.to_rich(table), soft_wrap=False)
        return
    write = {
        Format.MARKDOWN: suite_formats.to_markdown,
        Format.CSV: suite_formats.to_csv,
        Format.JSON: suite_formats.to_json,
    }[form]
    _write(write(table))


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
    from mt4ssl_bench.results.runs import LOG, runs_below, table

    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one with runs in it")
    if not (found := runs_below(folder)):
        raise CheckpointError(
            f"{folder}: no {LOG} below it; expected the --out folder of 'mt4ssl-bench pretrain'"
        )
    stdout.print(table(found, folder), soft_wrap=False)
    for run in found:
        if run.unreadable:
            stdout.print(
                f"{run.folder}: lines at the log's end that cannot be read: {run.unreadable}"
            )


def print_leaderboard(folder: Path, form: Format) -> None:
    """Print the leaderboard of a folder of records."""
    from mt4ssl_bench.results.leaderboard import Leaderboard

    board = Leaderboard.from_folder(folder)
    if form is Format.TABLE:
        stdout.print(board.to_rich(), soft_wrap=False)
        return
    write = {
        Format.MARKDOWN: board.to_markdown,
        Format.CSV: board.to_csv,
        Format.JSON: board.to_json,
    }[form]
    _write(write())


def print_sweeps(results: Sequence["Result"]) -> None:
    """Print the validation score of every learning rate, a table per corpus and recipe."""
    from mt4ssl_bench.results.show import sweep_tables

    stdout.print(sweep_tables(results), soft_wrap=False)
