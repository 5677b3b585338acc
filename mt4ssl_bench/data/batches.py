"""Cuts to batches: one order for a seed, whatever the number of processes.

Shapes: B batch, N samples, T frames.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cuts import durations_of, shards_of
from mt4ssl_bench.data.epoch_order import Places, batches_of
from mt4ssl_bench.data.loader_processes import loaded
from mt4ssl_bench.device import host_memory
from mt4ssl_bench.errors import TrainingError

B = TypeVar("B")


class Place(NamedTuple):
    """Where the endless order of batches goes on; it counts the batches of all processes."""

    epoch: int = 0
    position: int = 0  # batches taken from this epoch


# from a place on: batches, each with the place after it
Stream = Callable[[Place], Iterator[tuple[Place, B]]]


def endless(
    epochs: Callable[[int, int], Iterable[B]], *, rank: int = 0, world: int = 1
) -> Stream[B]:
    """Return the stream of one process's share of the batches of epoch after epoch.

    Rounds of `world` consecutive batches, also across epochs, give one to each process, so that
    the batches of an update do not depend on how many processes share them.

    Args:
        epochs: Epoch number, batches to skip -> the epoch's batches, the same each time.
        rank: This process.
        world: How many processes there are.
    """

    def stream(place: Place) -> Iterator[tuple[Place, B]]:
        number = 0
        mine: list[B] = []
        while True:
            for batch in epochs(*place):
                place = Place(place.epoch, place.position + 1)
                if number % world == rank:
                    mine.append(batch)
                number += 1
                if number % world == 0:
                    yield place, mine.pop()
            if not place.position:
                raise TrainingError(
                    "an epoch holds no batch; check the split and the length limits"
                )
            place = Place(place.epoch + 1)

    return stream


def pad(rows: Sequence[NDArray[np.generic]], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return rows of unequal length as one zero-padded tensor (B, N) and their lengths (B,).

    Both are on the host, whatever the device that they are for.
    """
    counts = [len(row) for row in rows]
    kind = torch.from_numpy(rows[0][:0].copy()).dtype
    padded = host_memory((len(rows), max(counts)), kind, device)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.from_numpy(np.ascontiguousarray(row))
        target[len(row) :] = 0
    return padded, torch.tensor(counts)


class Batches(Generic[B]):
    """Batches of cuts of similar length; see epoch_order.py.

    Args:
        cuts: Read only where a batch is made.
        make: List of cuts -> batch; runs in `workers` processes (0: in this one).
        seconds: Of a batch at most, with padding.
        count: Of cuts in a batch at most.
        seed: Of the order.
        shuffle: Draw an order for each epoch; otherwise all have the same.
        workers: Loader processes.
        crop: Cut, epoch -> what this epoch uses of it; `make` gets a list of these.
        longest: What a cut counts at most, in seconds, where `make` crops it.
        enough: An epoch ends with the batch that reaches this many seconds of audio.
        draw: Epoch -> places of the cuts that it has (N,), repeated or left out; None: all, once.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        make: Callable[[Sequence[Any]], B],
        *,
        seconds: float | None = None,
        count: int | None = None,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        crop: Callable[[Cut, int], Any] | None = None,
        longest: float = math.inf,
        enough: float | None = None,
        draw: Callable[[int], Places | None] | None = None,
    ) -> None:
        self.cuts, self.make, self.seconds, self.count = cuts, make, seconds, count
        self.seed, self.shuffle, self.enough, self.draw = seed, shuffle, enough, draw
        self.workers, self.crop = workers, crop
        self.durations = np.minimum(durations_of(cuts), longest)

    def __call__(
        self, epoch: int = 0, skip: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[B]:
        """Yield every `world`-th batch of an epoch, from `rank` on, without its first `skip`."""
        mine = itertools.islice(self.order(epoch, skip), rank, None, world)
        return (
            batch for _, batch in loaded(((Place(), key) for key in mine), self._made, self.workers)
        )

    def stream(self, *, rank: int = 0, world: int = 1) -> Stream[B]:
        """Return one process's share of epoch after epoch; only its own batches are made."""
        keys = endless(self.order, rank=rank, world=world)
        return lambda place: loaded(keys(place), self._made, self.workers)

    def order(self, epoch: int, skip: int = 0) -> Iterator["Key"]:
        """Yield which cuts make each batch of an epoch, without its first `skip`; reads nothing."""
        drawn, shards = self.draw(epoch) if self.draw else None, shards_of(self.cuts)
        batches = batches_of(
            self.durations if drawn is None else self.durations[drawn],
            seconds=self.seconds,
            count=self.count,
            key=(self.seed, epoch) if self.shuffle else None,
            shards=shards if shards is None or drawn is None else shards[drawn],
        )
        seconds = 0.0
        for number, batch in enumerate(batches):
            places = batch if drawn is None else drawn[batch]
            if number >= skip:
                yield Key(epoch, places)
            seconds += float(self.durations[places].sum())
            if self.enough is not None and seconds >= self.enough:
                return

    def _made(self, key: "Key") -> B:
        cuts = [self.cuts[place] for place in key.places.tolist()]
        return self.make(cuts if self.crop is None else [self.crop(cut, key.epoch) for cut in cuts])


class Key(NamedTuple):
    """What a worker makes a batch from: where its cuts stand."""

    epoch: int
    places: NDArray[np.int64]
