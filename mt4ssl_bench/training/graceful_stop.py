"""The polite stop: the first Ctrl-C or SIGTERM asks, the same one again interrupts at once."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LOGGER = logging.getLogger(__name__)


@contextmanager
def polite_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a stop was asked for.

    The caller's handlers come back afterwards.

    A launcher may follow a Ctrl-C with SIGTERM: only the same signal again interrupts.
    """
    asked: set[int] = set()
    owner = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal's signature
        if (
            os.getpid() != owner
        ):  # a loader process: it inherits this handler, and ends with its trainer
            return
        if number in asked:
            raise KeyboardInterrupt
        if not asked:
            LOGGER.info("stopping after this update; once more to stop at once")
        asked.add(number)

    try:
        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's there
        previous = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
