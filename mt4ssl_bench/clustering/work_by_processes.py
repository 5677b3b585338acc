"""Long computations in parts that all processes of a run share; existing parts are kept."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.files import FOREVER, holding, written
from mt4ssl_bench.shared_work import Unit, finish, share
from mt4ssl_bench.training.distributed import World

LOGGER = logging.getLogger(__name__)
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
        """
        ranges = [range(start, min(start + ITEMS, items)) for start in range(0, items, ITEMS)]
        units = [
            self._unit(f"{name}-{number:06d}.npz", part, make) for number, part in enumerate(ranges)
        ]
        finish(share(units, start=self.world.rank / self.world.size, title=title))
        self.world.barrier()  # the main process collects the parts, and removes them

    def _unit(self, name: str, part: range, make: Callable[[range], Arrays]) -> Unit:
        file = self.folder / name
        return Unit(
            file.with_suffix(".lock"), file.exists, lambda: self.write(name, make(part)), len(part)
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
    """Let one run at a time write `folder`; others wait until it has ended, also by a kill."""
    lock = folder.with_name(f".{folder.name}.lock")
    with ExitStack() as held:
        if world.main:
            try:
                held.enter_context(holding(lock, patience=0))
            except TimeoutError:
                LOGGER.info("%s: another process is creating it; waiting for it", folder)
                held.enter_context(holding(lock, FOREVER))
        world.barrier()
        yield
        world.barrier()
