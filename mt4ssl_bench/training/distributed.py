"""The processes of a run: their sums, their order, and the gradients that they share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mt4ssl_bench.errors import BenchError, DivergedError, OutOfStepError, with_class

T = TypeVar("T")
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them; all call a method at the same point."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    # a gloo group, for numbers and objects without waiting for the accelerator's queue
    control: "dist.ProcessGroup | None" = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and messages for all."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over the processes."""
        if self.size == 1:
            return [float(value) for value in values]
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self.control)
        return cast("list[float]", numbers.tolist())

    def any(self, value: bool) -> bool:  # noqa: FBT001 - as the builtin
        """Return whether `value` is true in any process."""
        return value if self.size == 1 else self.sum(value)[0] > 0

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def agree(self, compute: Callable[[], T]) -> T:
        """Return this process's result of `compute`, in which no process waits for another.

        Raises:
            BenchError: In every process, if `compute` fails in any.
        """
        if self.size == 1:
            return compute()
        value, failure = None, None
        try:
            value = compute()
        except BenchError as error:
            failure = error
        except Exception as error:
            LOGGER.debug("failed", exc_info=error)
            failure = BenchError(f"process {self.rank} of {self.size}: {with_class(error)}")
        for first in self.gather(failure):
            if first is not None:
                raise first
        return cast("T", value)

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Run a block in which the processes wait for each other.

        Raises:
            DivergedError: As the block raises it, which it does in all processes or in none.
            OutOfStepError: For any other error: the others still wait, so this process must end.
        """
        try:
            yield
        except DivergedError:
            raise
        except Exception as error:
            if self.size == 1:
                raise
            raise OutOfStepError(
                f"process {self.rank} of {self.size}: {with_class(error)}; the others were "
                "stopped, and the same command continues"
            ) from error

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block in the main process, then in the others, which find its files."""
        if not self.main:
            self.barrier()
        yield
        if self.main:
            self.barrier()

    def wrap(self, module: nn.Module, *, unused: bool) -> nn.Module:
        """Return `module` with its gradients averaged over the processes in each backward pass.

        `unused` says that a pass may leave out parameters that have gradients otherwise.
        """
        if self.size == 1:
            return module
        # no device_ids, by which DDP would move its inputs: lengths are read on the host
        return DistributedDataParallel(
            module,
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,  # one copy of the gradients less
        )


ALONE = World()


def no_sync(module: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which a wrapped module does not average its gradients."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()
