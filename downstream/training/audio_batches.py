"""Audio of one split in batches, for training that runs the upstream itself."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.batches import Batches, pad
from mt4ssl_bench.downstream.config import TaskConfig


class Batch(NamedTuple):
    """Cuts with their zero-padded audio (B, N) and its lengths (B,)."""

    cuts: list[Any]
    waveforms: Tensor
    lengths: Tensor


class Audio:
    """One split's audio in batches; `crop` seconds of each utterance, from a place that depends on
    the epoch, or 0.
    """

    def __init__(self, cuts: Sequence[Any], config: TaskConfig, *, crop: float = 0.0) -> None:
        self.cuts, self.config, self.crop = list(cuts), config, crop
        hours = sum(cut.duration for cut in cuts) / 3600
        self._keep = not crop and not config.tune.workers and hours <= config.tune.cache_hours
        self._kept: dict[str, NDArray[np.float32]] = {}

    def batches(self, *, shuffle: bool) -> Batches[Batch]:
        """Return length-bucketed batches of at most tune.batch_seconds."""
        tune = self.config.tune
        return Batches(
            self.cuts,
            self.make,
            seconds=tune.batch_seconds,
            seed=self.config.seeds[0],
            shuffle=shuffle,
            workers=tune.workers,
            crop=self._crop if self.crop else None,
        )

    def make(self, cuts: Sequence[Any]) -> Batch:
        """Read the cuts' audio."""
        return Batch(list(cuts), *pad([self._read(cut) for cut in cuts]))

    def _read(self, cut: Any) -> NDArray[np.float32]:  # noqa: ANN401 - lhotse ships no types
        if cut.id in self._kept:
            return self._kept[cut.id]
        samples = audio.read(cut)
        if self._keep:
            self._kept[cut.id] = samples
        return samples

    def _crop(self, cut: Any, epoch: int) -> Any:  # noqa: ANN401
        if cut.duration <= self.crop:
            return cut
        drawn = hashlib.blake2b(
            f"{self.config.seeds[0]} {epoch} {cut.id}".encode(), digest_size=8
        ).digest()
        offset = (cut.duration - self.crop) * (int.from_bytes(drawn) / 2**64)
        return cut.truncate(offset=offset, duration=self.crop, preserve_id=True)
