"""The command line's results: leaderboards; nothing heavy is imported before a command runs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.console import stdout

app = typer.Typer()


class Format(StrEnum):
    """How a leaderboard is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


@app.command()
def leaderboard(
    results: Annotated[Path, typer.Argument(help="A folder of result records.")] = Path("results"),
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
) -> None:
    """Print the leaderboard of a folder of records, one table per corpus.

    Example: mt4ssl-bench leaderboard results --format markdown > RESULTS.md
    """
    print_leaderboard(results, form)


def print_leaderboard(folder: Path, form: Format) -> None:
    """Print the leaderboard of a folder of records."""
    from mt4ssl_bench.leaderboard import Leaderboard

    board = Leaderboard.from_folder(folder)
    if form is Format.TABLE:
        stdout.print(board.to_rich())
        return
    text = {Format.MARKDOWN: board.to_markdown, Format.CSV: board.to_csv, Format.JSON: board.to_json}[form]()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
