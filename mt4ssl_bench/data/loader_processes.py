"""Batches made by loader processes, ahead of the training and in its order."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mt4ssl_bench.errors import BenchError

B = TypeVar("B")
K = TypeVar("K")
P = TypeVar("P")


def loaded(
    keys: Iterable[tuple[P, K]], make: Callable[[K], B], workers: int
) -> Iterator[tuple[P, B]]:
    """Yield (place, make(key)) of (place, key) pairs, made in `workers` processes (0: in this one).

    Raises:
        BenchError: As `make` raises it.
    """
    if not workers:
        yield from ((place, make(key)) for place, key in keys)
        return
    for place, batch in DataLoader(
        _Made(make),
        sampler=keys,  # any iterable of keys serves
        batch_size=None,
        collate_fn=_same,  # the default one turns tuples into lists and arrays into tensors
        num_workers=workers,
        prefetch_factor=4,
        # not on a GPU that this process does not use
        pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
        worker_init_fn=_leave_group,
        # else it draws from the one that the update's dropout is drawn from
        generator=torch.Generator(),
    ):
        if isinstance(batch, BenchError):
            raise batch
        yield place, batch


class _Made(Dataset[tuple[P, B | BenchError]], Generic[P, K, B]):
    """Batches in a worker; an error for the user travels as it is, without a traceback."""

    def __init__(self, make: Callable[[K], B]) -> None:
        self.make = make

    def __getitem__(self, key: tuple[P, K]) -> tuple[P, B | BenchError]:
        try:
            return key[0], self.make(key[1])
        except BenchError as error:
            return key[0], error


def _leave_group(_: int) -> None:
    """Put a loader process beyond the signals that launchers and terminals send to a whole group.

    A loader that SIGTERM ends would end its trainer before that has saved. It ends with its
    trainer, whose death torch watches for.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _same(batch: B) -> B:
    return batch
