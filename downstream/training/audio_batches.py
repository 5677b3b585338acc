"""Audio of one split in batches, for training that runs the upstream itself.

Shapes: B batch, N samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.audio_cache import AudioCache
from mt4ssl_bench.data.batches import Batches, pad
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.draw import share
from mt4ssl_bench.data.effects import apply
from mt4ssl_bench.data.epoch_order import Places
from mt4ssl_bench.downstream.task import Task


class AudioBatch(NamedTuple):
    """Cuts with their zero-padded audio (B, N) and its lengths (B,)."""

    cuts: list[Cut]
    waveforms: Tensor
    lengths: Tensor


class Audio:
    """The audio of one split, with the effects and crops of a task for a role."""

    def __init__(self, task: Task, cuts: Sequence[Cut], role: str) -> None:
        crops, self.config = task.config.crops_of(role), task.config
        self.task, self.role = task, role
        self.cuts, self.effects, self.crop = list(cuts), task.effects, crops.seconds if crops else 0
        self._read = AudioCache(
            self._affected,
            seconds=sum(cut.duration for cut in cuts),
            hours=0 if self.crop else self.config.tune.cache_hours,  # each epoch has its own crops
            workers=self.config.tune.workers,
        )

    def batches(self, *, shuffle: bool) -> Batches[AudioBatch]:
        """Return length-bucketed batches of at most tune.batch_seconds."""
        return Batches(
            self.cuts,
            self.make,
            seconds=self.config.tune.batch_seconds,
            seed=self.config.seeds[0],
            shuffle=shuffle,
            workers=self.config.tune.workers,
            crop=self._crop if self.crop else None,
            draw=self._draw if self.role != "test" else None,
        )

    def make(self, cuts: Sequence[Cut]) -> AudioBatch:
        """Read the cuts' audio."""
        return AudioBatch(list(cuts), *pad([self._read(cut) for cut in cuts]))

    def _affected(self, cut: Cut) -> audio.Samples:
        return apply(self.effects, audio.read(cut))

    def _draw(self, epoch: int) -> Places | None:
        return self.task.draw(self.cuts, epoch, self.role)

    def _crop(self, cut: Cut, epoch: int) -> Cut:
        """Return a crop at a place that depends only on seed, epoch and utterance."""
        if cut.duration <= self.crop:
            return cut
        offset = (cut.duration - self.crop) * share(self.config.seeds[0], epoch, cut.id)
        return cut.truncate(offset=offset, duration=self.crop, preserve_id=True)
