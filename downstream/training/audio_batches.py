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
from mt4ssl_bench.data.effects import Effect
from mt4ssl_bench.downstream.config import TaskConfig


class AudioBatch(NamedTuple):
    """Cuts with their zero-padded audio (B, N) and its lengths (B,)."""

    cuts: list[Cut]
    waveforms: Tensor
    lengths: Tensor


class Audio:
    """The audio of one split.

    Args:
        cuts: Of the split.
        config: Of the task.
        crop: Seconds of each utterance that an epoch reads, or 0 for all.
        effects: Applied to what is read.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        config: TaskConfig,
        *,
        crop: float = 0.0,
        effects: Sequence[Effect] = (),
    ) -> None:
        self.cuts, self.config, self.crop, self.effects = list(cuts), config, crop, effects
        tune = config.tune
        self._read = AudioCache(
            self._affected,
            seconds=sum(cut.duration for cut in cuts),
            hours=0 if crop else tune.cache_hours,  # each epoch has crops of its own
            workers=tune.workers,
        )

    def batches(self, *, shuffle: bool) -> Batches[AudioBatch]:
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

    def make(self, cuts: Sequence[Cut]) -> AudioBatch:
        """Read the cuts' audio."""
        return AudioBatch(list(cuts), *pad([self._read(cut) for cut in cuts]))

    def _affected(self, cut: Cut) -> audio.Samples:
        samples = audio.read(cut)
        for effect in self.effects:
            samples = effect(samples)
        return samples

    def _crop(self, cut: Cut, epoch: int) -> Cut:
        """Return a crop at a place that depends only on seed, epoch and utterance."""
        if cut.duration <= self.crop:
            return cut
        offset = (cut.duration - self.crop) * share(self.config.seeds[0], epoch, cut.id)
        return cut.truncate(offset=offset, duration=self.crop, preserve_id=True)
