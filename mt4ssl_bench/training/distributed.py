"""One process or many: torchrun is detected here alone, and plain python is a world of one without
a process group.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mt4ssl_bench.console import hush
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.errors import BenchError, ConfigError, TrainingError

T = TypeVar("T")
PATIENCE = timedelta(
    days=2
)  # the others wait this long where the main process works alone: it makes labels, say


@dataclass(frozen=True)
class World:
    """The processes of one run, seen from one of them.

    Every method is for all of them, at the same point.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    # a gloo group for numbers and objects: the accelerator's queue never waits for them
    control: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks for all."""
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
        found: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.control)
        return found

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block in the main process, then in the others: they find what it has made."""
        if not self.main:
            dist.barrier(group=self.control)
        yield
        if self.main and self.size > 1:
            dist.barrier(group=self.control)

    def wrap(self, module: nn.Module, *, unused: bool) -> nn.Module:
        """Return `module` with its gradients averaged over the processes in each backward pass.

        Its parameters without gradients take no part. `unused`: a pass may leave some parameters
        out.
        """
        if self.size == 1:
            return module
        cuda = self.device.startswith("cuda")
        devices = [torch.device(self.device)] if cuda else None
        return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused)


ALONE = World()


def no_sync(module: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which the passes of a wrapped module add up their gradients in this
    process alone.
    """
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """Yield the world that this process belongs to; only its main process writes to the terminal.

    Of an error, the first process that meets it speaks; the others leave with its exit code, as
    torchrun ends them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=pick_device(device))
        return
    rank = int(os.environ["RANK"])
    hush(quiet=rank > 0)
    store, _, _ = next(rendezvous("env://"))  # where torchrun's processes meet
    try:
        world = _join(store, rank, size, _local_device(device))
        yield world
    except Exception as error:
        if not _first_to_fail(store):
            raise SystemExit(2) from None
        hush(quiet=False)
        if not isinstance(error, BenchError) and _is_lost_peer(error):
            raise TrainingError(
                f"process {rank} of {size} lost the others: one of them was stopped or cannot be "
                "reached; the same command continues from the last checkpoint"
            ) from error
        raise
    # after an error torchrun ends the others; closing here would make them speak first
    dist.destroy_process_group()


# torch gives stores no public type
def _join(store: Any, rank: int, size: int, device: str) -> World:  # noqa: ANN401
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    return World(rank, size, device, dist.new_group(backend="gloo", timeout=PATIENCE))


def _local_device(asked: str) -> str:
    where = pick_device(asked)
    if where == "mps" and asked == "auto":
        return "cpu"  # no backend reduces over Apple's GPUs
    if not where.startswith("cuda"):
        return where
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ConfigError(
            f"--nproc-per-node: this machine has {count} GPU(s); at most as many, or --device cpu"
        )
    return f"cuda:{local}"


def _first_to_fail(store: Any) -> bool:  # noqa: ANN401
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # whoever kept the store is gone without a word
        return True


def _is_lost_peer(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("peer", "gloo", "Broken pipe")
    )
