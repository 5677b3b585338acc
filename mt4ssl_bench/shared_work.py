"""Work in units that any number of processes share through a folder, each unit done once.

A unit is done when its files are there; they are written atomically. While a process makes a unit
it holds the unit's lock, which ends with the process, however that ends; then another one makes
it. Processes exchange nothing else: they may come and go, on one machine or on several that share
a disk.

Work is a generator that yields whenever other processes hold all that is left of it, so that its
owner can turn to something else meanwhile.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from mt4ssl_bench.console import progress
from mt4ssl_bench.files import holding

T = TypeVar("T")
Work = Generator[None, None, T]
LOGGER = logging.getLogger(__name__)
PAUSE = 0.1  # seconds until a process that has nothing to do looks again


@dataclass(frozen=True)
class Unit:
    """A part of a work.

    Attributes:
        lock: File whose lock a process holds while it makes the unit.
        done: Whether the unit's files are there.
        make: Writes them.
        size: For progress.
    """

    lock: Path
    done: Callable[[], bool]
    make: Callable[[], None]
    size: int = 1


def share(
    units: Sequence[Unit],
    *,
    over: Callable[[], bool] = lambda: False,
    start: float = 0.0,
    title: str = "",
    busy: str = "",
) -> Work[None]:
    """Make every unit that is not done and that no other process makes; end when all are done.

    Args:
        units: The same in every process.
        over: Whether what the units are for is finished, and they may be removed.
        start: Share of the units to begin after: processes that begin apart rarely meet.
        title: Shows progress under this title.
        busy: Logged when others hold all that is left, once.
    """
    first = int(start * len(units))
    order = [*units[first:], *units[:first]]
    while left := [unit for unit in order if not unit.done()]:
        if over():
            return
        total = sum(unit.size for unit in units)
        done = total - sum(unit.size for unit in left)
        # closed before each yield: a terminal shows one bar at a time
        with progress(title, total, start=done) as advance:
            made = [_made(unit, over, advance) for unit in left]
        if not any(made):
            if busy:
                LOGGER.info("%s", busy)
            busy = ""
            yield


def _made(unit: Unit, over: Callable[[], bool], advance: Callable[[int, str], None]) -> bool:
    """Make a unit unless another process does or did; return whether it was made here."""
    with ExitStack() as held:
        if not unit.done() and not over():
            try:
                held.enter_context(holding(unit.lock, patience=0))
            except TimeoutError:
                return False
        made = not unit.done() and not over()
        if made:
            unit.make()
        advance(unit.size, "")
        return made


def finish(work: Work[T]) -> T:
    """Do a work to its end, waiting where other processes hold all that is left."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast("T", end.value)
        time.sleep(PAUSE)
