"""Files that are written atomically, and folders that one process at a time works in."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

LOGGER = logging.getLogger(__name__)
# seconds to wait for the lock: data loader processes of a killed run release it with a delay
PATIENCE = 30.0
LOCK = ".lock"
FOREVER = -1.0  # filelock's


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file for bytes that replaces `path` at the end of the block, or is deleted on errors.

    Raises:
        OSError: If the file cannot be written (for example, disk full). An existing file at
            `path` is kept.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically; see written()."""
    with written(path) as file:
        file.write(text.encode())


@contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Lock `folder`, which is created if it does not exist; see holding()."""
    with holding(folder / LOCK, patience):
        yield


@contextmanager
def holding(file: Path, patience: float | None = None) -> Iterator[None]:
    """Hold the lock `file` against other processes during the block.

    The lock of a process that dies is released.

    Args:
        file: Of the lock; its folder is created if it does not exist.
        patience: Seconds to wait for the lock, negative: forever; default: PATIENCE.

    Raises:
        TimeoutError: If another process still holds the lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout:
        raise TimeoutError(
            f"{file.parent}: another process works there; wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        LOGGER.debug("%s: no lock, this file system may have none (%s)", file, error)
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process works in `folder`; see locked()."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # somebody else's folder, or a disk without locks
        return False
