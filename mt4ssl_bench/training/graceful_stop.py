"""Graceful stop: the first Ctrl-C or SIGTERM requests a stop, the same signal again interrupts."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LOGGER = logging.getLogger(__name__)


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True once a stop was requested.

    Previous signal handlers are restored on exit.
    """
    requested: set[int] = set()
    owner = os.getpid()

    def request(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a data loader process, which inherits the handler, ends with its trainer
        if number in requested:  # not just any second signal: launchers send SIGTERM after Ctrl-C
            raise KeyboardInterrupt
        if not requested:
            LOGGER.info(
                "stopping after this update; repeat the signal (Ctrl-C) to stop immediately"
            )
        requested.add(number)

    try:
        previous = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may set handlers
        previous = {}
    try:
        yield lambda: bool(requested)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
