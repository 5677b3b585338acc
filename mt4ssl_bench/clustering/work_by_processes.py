"""Long computations in parts that all processes of a run share; existing parts are kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.files import written
from mt4ssl_bench.training.distributed import World

ITEMS = 256  # of a part: the most that an interruption costs each process

Arrays = Mapping[str, NDArray[np.generic]]


class Parts:
    """Files of arrays in a folder that all processes share, the same for any number of them."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, name: str, items: int, make: Callable[[range], Arrays], title: str) -> None:
        """Write a file for every ITEMS of `items` items; return when all processes are done.

        Args:
            name: First part of the files' names.
            items: How many items there are.
            make: Items -> their arrays.
            title: Of the progress bar.

        Raises:
            ConfigError: If the processes do not share the folder.
        """
        ranges = [range(start, min(start + ITEMS, items)) for start in range(0, items, ITEMS)]
        files = [self.folder / f"{name}-{number:06d}.npz" for number in range(len(ranges))]
        mine = list(zip(files, ranges, strict=True))[self.world.rank :: self.world.size]
        left = [(file, part) for file, part in mine if not file.exists()]
        total = sum(len(part) for _, part in mine)
        with progress(title, total, start=total - sum(len(part) for _, part in left)) as advance:
            for file, part in left:
                self.write(file.name, make(part))
                advance(len(part), "")
        self.world.barrier()
        # only in the main process, which collects the parts: it may have removed them by now
        absent = sum(not file.exists() for file in files) if self.world.main else 0
        if absent:
            raise ConfigError(
                f"{self.folder}: {absent} of {len(ranges)} parts are missing; all processes need "
                "one folder: choose one on a disk that their machines share"
            )

    def read(self, name: str) -> Iterator[Arrays]:
        """Yield the parts in order."""
        for file in sorted(self.folder.glob(f"{name}-*.npz")):
            with np.load(file) as arrays:
                yield dict(arrays)

    def write(self, name: str, arrays: Arrays) -> None:
        """Write one file atomically."""
        with written(self.folder / name) as file:
            np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def one_at_a_time(folder: Path, world: World) -> Iterator[None]:
    """Let one run at a time work in `folder`; others wait until it has ended, also by a kill."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    if world.main:
        lock.acquire()
    world.barrier()
    try:
        yield
        world.barrier()
    finally:
        lock.release()
