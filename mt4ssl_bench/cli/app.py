"""The mt4ssl-bench command: thin commands over the jobs.

Nothing heavy is imported before a command runs.
"""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.text import Text

from mt4ssl_bench import __version__, threads
from mt4ssl_bench.cli import (
    corpora,
    evaluate,
    features,
    models,
    prepare,
    results,
    train,
)
from mt4ssl_bench.cli.options import CORPORA
from mt4ssl_bench.console import setup_logging, stderr, stdout
from mt4ssl_bench.errors import INTERRUPTED, BenchError
from mt4ssl_bench.text import flat

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain speech models with MT4SSL and evaluate any speech encoder with SUPERB's "
    "protocol.",
)
app.add_typer(prepare.app, name="prepare", rich_help_panel=CORPORA)
for room in (corpora, train, evaluate, results, features, models):
    app.add_typer(room.app)


def _version(*, wanted: bool) -> None:
    if wanted:
        stdout.print(__version__)
        raise typer.Exit


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback runs before a command is asked for
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """Set up the log."""
    setup_logging(verbose=verbose)


def _fail(message: str) -> int:
    """Print an error in one line; returns its exit code."""
    stderr.print(Text.assemble(("error: ", "bold red"), flat(" ".join(message.split()))))
    return 2


def main() -> None:
    """Run the command line.

    A user's error prints one line and exits with code 2, an interruption with 130.
    """
    threads.configure()  # before a command imports torch
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names of files that a terminal cannot show
    try:
        code = app(standalone_mode=False)  # a command's exit code; typer makes 130 of Ctrl-C
    except (BenchError, OSError) as error:  # OSError: a folder that is a file, a full disk
        code = _fail(str(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors have it
            raise  # anything else is our own mistake
        code = _fail(error.format_message())
    if code == INTERRUPTED:
        stderr.print("interrupted; what was complete is kept, and the same command continues")
    sys.exit(code if isinstance(code, int) else 0)
