"""The rich consoles of the command line, logging and progress.

Progress and log lines go to stderr, so that the output of a command on stdout can be piped.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mt4ssl_bench.text import flat

LOGGER = logging.getLogger("mt4ssl_bench")
PLAIN_SECONDS = 20.0  # between two progress lines in the log
ANY_WIDTH = 10_000  # columns: a terminal that is wide enough for every table


class Lines(Console):
    """A console that prints each string as plain text on one line.

    Markup, emoji codes and escape sequences in strings have no effect; styles are given as
    rich.text.Text.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def options(self) -> ConsoleOptions:
        """Rich's options; what is piped has no width."""
        options = super().options
        return options if self.is_terminal else options.update(max_width=ANY_WIDTH)

    def show(self, shown: RenderableType) -> None:
        """Print tables and texts, which take the width of the terminal."""
        self.print(shown, soft_wrap=False, crop=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as rich's
        """Render a string, also a table's cell, without control characters."""
        return super().render_str(flat(text), **options)


class OneLine(logging.Formatter):
    """Log lines without line breaks and control characters; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line without its traceback."""
        record.message = flat(record.message)
        return super().formatMessage(record)


stdout = Lines()  # does not wrap lines; tables are printed with show()
stderr = Lines(stderr=True)

Advance = Callable[[int, str], None]


def setup_logging(*, verbose: bool = False) -> None:
    """Send the package's log to stderr, formatted by rich on a terminal."""
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(
            console=stderr, show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(OneLine("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


def set_quiet(*, quiet: bool) -> None:
    """Suppress output and log lines below errors in this process, or restore them.

    Only one of many processes reports.
    """
    stdout.quiet = stderr.quiet = quiet
    LOGGER.setLevel(logging.ERROR if quiet else logging.INFO)


@contextmanager
def quieted(*, unless: bool = False) -> Iterator[None]:
    """Suppress the log during the block, errors included."""
    level = LOGGER.level
    LOGGER.setLevel(level if unless else logging.CRITICAL)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


@contextmanager
def progress(description: str, total: int, *, start: int = 0) -> Iterator[Advance]:
    """Show progress over `total` items; yield advance(count, note).

    On a terminal it is a bar; elsewhere, a log line every PLAIN_SECONDS and one at the end if it
    took longer. Without a description, nothing is shown.
    """
    if not description:
        yield _silent
        return
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=stderr, transient=False) as bar:
            task = bar.add_task(flat(description), total=total, completed=start, note="")

            def draw(count: int, note: str = "") -> None:
                bar.update(task, advance=count)
                if note:
                    bar.update(task, note=note)

            yield draw
        return
    done, began = start, time.monotonic()
    last = began

    def advance(count: int, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= PLAIN_SECONDS:
            last = now
            left = (now - began) / max(done - start, 1) * (total - done)
            LOGGER.info(
                "%s: %d/%d, %.0f s left%s",
                description,
                done,
                total,
                left,
                f", {note}" if note else "",
            )

    yield advance
    if last > began:
        LOGGER.info("%s: %d/%d in %.0f s", description, done, total, time.monotonic() - began)


def _silent(count: int, note: str = "") -> None:
    pass
