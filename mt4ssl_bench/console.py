"""The one rich console: progress and logs go to stderr, so that what a command prints on stdout can be piped."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOGGER = logging.getLogger("mt4ssl_bench")
PLAIN_SECONDS = 20.0  # off a terminal, one progress line at most this often

stdout = Console(
    highlight=False, soft_wrap=True
)  # lines as they are, to be piped; tables say soft_wrap=False
stderr = Console(stderr=True)

Advance = Callable[[int, str], None]


def setup_logging(*, verbose: bool = False) -> None:
    """Send this package's log to stderr: through rich on a terminal, as plain lines elsewhere."""
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(
            console=stderr, show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False


def hush(*, quiet: bool) -> None:
    """Silence this process, all but its errors in the log, or let it speak again: of many processes one reports."""
    stdout.quiet = stderr.quiet = quiet
    LOGGER.setLevel(logging.ERROR if quiet else logging.INFO)


@contextmanager
def progress(description: str, total: int, *, start: int = 0) -> Iterator[Advance]:
    """Show progress over `total` units; yields advance(count, note).

    A bar on a terminal; elsewhere a plain log line every PLAIN_SECONDS and one at the end of anything that took longer.
    """
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=stderr, transient=False) as bar:
            task = bar.add_task(description, total=total, completed=start, note="")

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
