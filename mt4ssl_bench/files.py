"""Files that appear complete or not at all: written aside in the same folder, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write bytes to, which becomes `path` when the block ends, and vanishes when it fails.

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
