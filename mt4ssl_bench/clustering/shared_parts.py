"""Long work in parts, shared by all processes of a run: a part that has its file is not done
again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.files import written
from mt4ssl_bench.training.distributed import World

ITEMS = 256  # of a part: what an interruption costs each process at most

Arrays = Mapping[str, NDArray[Any] | np.generic]


class Parts:
    """Files of arrays in `folder`, which all processes see.

    The same parts whatever their number.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, name: str, items: int, make: Callable[[range], Arrays], title: str) -> None:
        """Write the arrays that `make` gives for every ITEMS of `items` items.

        Returns when all processes are done.

        Raises ConfigError where the processes do not see one folder.
        """
        ranges = [range(start, min(start + ITEMS, items)) for start in range(0, items, ITEMS)]
        mine = list(enumerate(ranges))[self.world.rank :: self.world.size]
        left = [
            (number, part)
            for number, part in mine
            if not (self.folder / _file(name, number)).exists()
        ]
        total = sum(len(part) for _, part in mine)
        with progress(title, total, start=total - sum(len(part) for _, part in left)) as advance:
            for number, part in left:
                self.write(_file(name, number), make(part))
                advance(len(part), "")
        self.world.sum(0)  # wait for the others
        if not self.world.main:
            # the main process collects the parts and removes them: it may have done so by now
            return
        absent = sum(
            not (self.folder / _file(name, number)).exists() for number in range(len(ranges))
        )
        if absent:
            raise ConfigError(
                f"{self.folder}: {absent} of {len(ranges)} parts are missing; all processes need "
                "one folder: choose one on a disk that their machines share"
            )

    def read(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the parts in order."""
        for file in sorted(self.folder.glob(f"{name}-*.npz")):
            with np.load(file) as arrays:
                yield dict(arrays)

    def write(self, name: str, arrays: Arrays) -> None:
        """Write one file, completely or not at all."""
        with written(self.folder / name) as file:
            np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def one_at_a_time(folder: Path, world: World) -> Iterator[None]:
    """Let one run at a time work in `folder`.

    Another one waits until it has ended, however it ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    if world.main:
        lock.acquire()
    world.sum(0)
    try:
        yield
        world.sum(0)
    finally:
        lock.release()


def _file(name: str, number: int) -> str:
    return f"{name}-{number:06d}.npz"
