"""Lhotse's samplers to batches: similar lengths together, the same order for the same seed and epoch.

Shapes: B batch, N samples, T frames.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

B = TypeVar("B")


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
        shuffle: order by seed and epoch; otherwise the cuts' own order within buckets.
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
    ) -> None:
        self.cuts, self.make, self.seconds, self.count = cuts, make, seconds, count
        self.seed, self.shuffle, self.workers = seed, shuffle, workers

    def __call__(self, epoch: int = 0, skip: int = 0) -> Iterator[B]:
        """Yield the batches of one epoch, without its first `skip`."""
        order = itertools.islice(self._sampler(epoch), skip, None)
        if not self.workers:
            yield from (self.make(list(cuts)) for cuts in order)
            return
        yield from DataLoader(
            _Made(self.make),
            sampler=order,  # any iterable of keys serves, and our keys are sets of cuts
            batch_size=None,
            collate_fn=_same,  # the default one turns tuples into lists and arrays into tensors
            num_workers=self.workers,
            prefetch_factor=4,
        )

    def _sampler(self, epoch: int) -> Any:  # noqa: ANN401 - lhotse ships no types
        from lhotse import CutSet
        from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler

        buckets = min(BUCKETS, len(self.cuts) // CUTS_PER_BUCKET)
        kind, extra = (DynamicBucketingSampler, {"num_buckets": buckets}) if buckets > 1 else (DynamicCutSampler, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "eagerly read CutSet": small corpora are, on purpose
            sampler = kind(
                CutSet.from_cuts(self.cuts),
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


class _Made(Dataset[B]):
    def __init__(self, make: Callable[[Sequence[Any]], B]) -> None:
        self.make = make

    def __getitem__(self, cuts: Any) -> B:  # noqa: ANN401
        return self.make(list(cuts))


def _same(batch: B) -> B:
    return batch
