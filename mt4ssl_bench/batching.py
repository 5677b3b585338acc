"""Lhotse's samplers to batches: similar lengths together, one order for a seed, whatever the number of processes.

Shapes: B batch, N samples, T frames.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mt4ssl_bench.errors import TrainingError

B = TypeVar("B")


class Place(NamedTuple):
    """Where the endless order of batches goes on; it counts the batches of all processes."""

    epoch: int = 0
    position: int = 0  # batches taken from this epoch


Stream = Callable[[Place], Iterator[tuple[Place, B]]]  # from a place on: batches, each with the place after it


def endless(epochs: Callable[[int, int], Iterable[B]], *, rank: int = 0, world: int = 1) -> Stream[B]:
    """Return the stream of one process's share of the batches of epoch after epoch.

    Rounds of `world` consecutive batches give one to each process, in order of rank; a round may begin in one epoch
    and end in the next. So the batches of an update do not depend on how many processes share them.

    Args:
        epochs: epoch number, batches to skip -> the epoch's batches, the same every time it is asked.
        rank, world: this process and how many there are.
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
                raise TrainingError("an epoch holds no batch; check the split and the length limits")
            place = Place(place.epoch + 1)

    return stream


def pad(rows: Sequence[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    """Return rows of unequal length as one zero-padded tensor (B, N) and their lengths (B,)."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.zeros(len(rows), int(lengths.max()), dtype=torch.from_numpy(rows[0][:0].copy()).dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = torch.from_numpy(np.ascontiguousarray(row))
    return padded, lengths


class Batches(Generic[B]):
    """Length-bucketed batches of cuts, of at most `seconds` of audio with padding (or `count` utterances).

    Args:
        cuts: their durations decide the buckets.
        make: list of cuts -> batch; runs in `workers` processes (0: in this one).
        crop: cut, epoch -> the part of it that this epoch uses, before the buckets are decided.
        shuffle: order by seed and epoch; otherwise the cuts' own order within buckets.
        enough: an epoch ends with the batch that reaches this many seconds of audio.
    """

    def __init__(
        self,
        cuts: Sequence[Any],
        make: Callable[[Sequence[Any]], B],
        *,
        seconds: float | None = None,
        count: int | None = None,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        crop: Callable[[Any, int], Any] | None = None,
        enough: float | None = None,
    ) -> None:
        self.cuts, self.make, self.seconds, self.count = cuts, make, seconds, count
        self.seed, self.shuffle, self.workers, self.crop, self.enough = seed, shuffle, workers, crop, enough

    def __call__(self, epoch: int = 0, skip: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[B]:
        """Yield the batches of one epoch, without its first `skip`; of these every `world`-th, from `rank` on."""
        mine = itertools.islice(self.order(epoch, skip), rank, None, world)
        return (batch for _, batch in self._load((Place(), cuts) for cuts in mine))

    def stream(self, *, rank: int = 0, world: int = 1) -> Stream[B]:
        """Return one process's share of epoch after epoch; only its own batches are made."""
        keys = endless(self.order, rank=rank, world=world)
        return lambda place: self._load(keys(place))

    def order(self, epoch: int, skip: int = 0) -> Iterator[list[Any]]:
        """Yield the cuts of each batch of one epoch, without its first `skip`; nothing is read."""
        heard = 0.0
        for number, cuts in enumerate(self._sampler(epoch)):
            if number >= skip:
                yield list(cuts)
            heard += sum(cut.duration for cut in cuts)
            if self.enough is not None and heard >= self.enough:
                return

    def _load(self, keys: Iterable[tuple[Place, list[Any]]]) -> Iterator[tuple[Place, B]]:
        if not self.workers:
            yield from ((place, self.make(cuts)) for place, cuts in keys)
            return
        yield from DataLoader(
            _Made(self.make),
            sampler=keys,  # any iterable of keys serves, and ours are places and sets of cuts
            batch_size=None,
            collate_fn=_same,  # the default one turns tuples into lists and arrays into tensors
            num_workers=self.workers,
            prefetch_factor=4,
        )

    def _sampler(self, epoch: int) -> Any:  # noqa: ANN401 - lhotse ships no types
        from lhotse import CutSet
        from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler

        crop = self.crop
        cuts = self.cuts if crop is None else [crop(cut, epoch) for cut in self.cuts]
        buckets = min(BUCKETS, len(cuts) // CUTS_PER_BUCKET)
        kind, extra = (DynamicBucketingSampler, {"num_buckets": buckets}) if buckets > 1 else (DynamicCutSampler, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "eagerly read CutSet": small corpora are, on purpose
            sampler = kind(
                CutSet.from_cuts(cuts),
                max_duration=self.seconds,
                max_cuts=self.count,
                shuffle=self.shuffle,
                seed=self.seed,
                drop_last=False,
                world_size=1,
                rank=0,
                **extra,
            )
        sampler.set_epoch(epoch)
        return sampler


BUCKETS = 20  # enough to keep padding under 5 % on read speech
CUTS_PER_BUCKET = 20  # fewer would make batches of one utterance


class _Made(Dataset[tuple[Place, B]]):
    def __init__(self, make: Callable[[Sequence[Any]], B]) -> None:
        self.make = make

    def __getitem__(self, key: tuple[Place, list[Any]]) -> tuple[Place, B]:
        place, cuts = key
        return place, self.make(cuts)


def _same(batch: B) -> B:
    return batch
