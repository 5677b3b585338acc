"""How a run starts: as one process, or as one of torchrun's, with their errors reported once."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import ProcessGroup, Store
from torch.distributed.rendezvous import rendezvous

from mt4ssl_bench.console import set_quiet
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.errors import BenchError, ConfigError, TrainingError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.training.run_folder import difference

# the longest wait for the main process while it works on its own, for example on k-means
PATIENCE = timedelta(days=2)


@contextmanager
def joined(device: str = "auto") -> Iterator[World]:
    """Yield the world of this process; only the main process writes to the terminal.

    The first process that fails prints the error; the others exit with the same code.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=pick_device(device))
        return
    rank = int(os.environ["RANK"])
    set_quiet(quiet=rank > 0)
    store, _, _ = next(rendezvous("env://"))  # torchrun's
    try:
        world = _join(store, rank, size, _local_device(device))
        yield world
    except Exception as error:
        if not _first_to_fail(store):
            raise SystemExit(2) from None
        set_quiet(quiet=False)
        if not isinstance(error, BenchError) and _is_lost_peer(error):
            raise TrainingError(
                f"process {rank} of {size} lost the others: one of them was stopped or cannot be "
                "reached; the same command continues from the last checkpoint"
            ) from error
        raise
    # not after an error: closing the group would make the others fail, and print, first
    dist.destroy_process_group()


def _join(store: Store, rank: int, size: int, device: str) -> World:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(control, ProcessGroup), "every process belongs to it"
    return World(rank, size, device, control)


def _local_device(asked: str) -> str:
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if asked in ("auto", "cuda") and local < count:
        with suppress(RuntimeError):  # pick_device() says what is wrong
            torch.cuda.set_device(local)  # before anything is tried on the first GPU
    device = pick_device(asked)
    if device == "mps" and asked == "auto":
        return "cpu"  # no backend reduces over Apple's GPUs
    if not device.startswith("cuda"):
        return device
    if local >= count:
        raise ConfigError(
            f"--nproc-per-node: this machine has {count} GPU(s); at most as many, or --device cpu"
        )
    return f"cuda:{local}"


def _first_to_fail(store: Store) -> bool:
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # the process that holds the store is gone
        return True


def _is_lost_peer(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("peer", "gloo", "Broken pipe")
    )


def check_alike(facts: Mapping[str, Json], world: World) -> None:
    """Check that all processes of a world were given the same things.

    Raises:
        ConfigError: In every process; names the first process that differs, and in what.
    """
    first, *others = world.gather(dict(facts))
    for rank, own in enumerate(others, 1):
        if changed := difference(first, own):
            raise ConfigError(
                f"process {rank} of {world.size} differs from process 0: {changed}; expected one "
                "corpus, one recipe and one environment on all machines"
            )


def check_shared(folder: Path, world: World) -> None:
    """Check that all processes of a world see one folder, which is created.

    Raises:
        ConfigError: In every process.
    """
    if world.size == 1:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (mark,) = world.gather(uuid.uuid4().hex)[:1]
    if world.main:
        (folder / f".{mark}").touch()
    world.barrier()
    seen = world.gather((folder / f".{mark}").exists())
    if world.main:
        (folder / f".{mark}").unlink()
    if not all(seen):
        raise ConfigError(
            f"{folder}: process {seen.index(False)} of {world.size} does not see the files of "
            "process 0 there; all processes need one folder: choose one on a disk that their "
            "machines share"
        )
