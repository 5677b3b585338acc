"""Files that appear complete or not at all, written aside and renamed.

Folders that one process at a time works in.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

LOGGER = logging.getLogger(__name__)
# seconds: the loader processes of a run that was killed let go of its folder after some
PATIENCE = 30.0


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write bytes to, which becomes `path` when the block ends, and vanishes when
    it fails.

    Raises OSError when the disk does not take it; what was at `path` is then untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see written()."""
    with written(path) as file:
        file.write(text.encode())


@contextmanager
def alone(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Keep other processes that ask the same out of `folder` during the block.

    One that dies lets go of it.

    Args:
        folder: made if it is not there.
        patience: seconds to wait for another process, negative for ever; default: PATIENCE.

    Raises:
        TimeoutError: If another process still works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout:
        raise TimeoutError(
            f"{folder}: another process works there; wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        LOGGER.debug("%s: no lock, this file system may have none (%s)", folder, error)
    try:
        yield
    finally:
        lock.release()
