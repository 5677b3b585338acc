"""Pretraining batches: audio and labels cropped by the same frames, joined by utterance id.

Shapes: B batch, N samples, T frames.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench import audio
from mt4ssl_bench.batching import Batches, Stream, pad
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.config import DataConfig
from mt4ssl_bench.upstream.frontend import STRIDE, frame_count, normalize
from mt4ssl_bench.upstream.labels import LabelStore

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One batch: `waveforms` (B, N) normalised and zero-padded, `lengths` (B,) samples, `labels` (B, T) or None."""

    waveforms: Tensor
    lengths: Tensor
    labels: Tensor | None
    ids: list[str]

    @property
    def seconds(self) -> float:
        """Seconds of real audio."""
        return float(self.lengths.sum()) / audio.RATE

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        waveforms = self.waveforms.to(device, non_blocking=True)
        return Batch(waveforms, self.lengths.to(device, non_blocking=True), labels, self.ids)


class PretrainData:
    """The audio of one split over all corpora; call with (epoch, skip) for its batches.

    Args:
        labels: joined by utterance id; None where no extractor needs them.
        shuffle: training order and random crops; otherwise a fixed order and crops from the start.
        enough: an epoch ends with the batch that reaches this many seconds of audio.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        split: str,
        config: DataConfig,
        labels: LabelStore | None,
        *,
        normalized: bool,
        seed: int = 0,
        shuffle: bool = True,
        enough: float | None = None,
    ) -> None:
        self.config, self.labels, self.normalized = config, labels, normalized
        self.seed, self.shuffle = seed, shuffle
        found = [cut for corpus in corpora for cut in corpus.cuts(split)]
        self.cuts = [cut for cut in found if cut.duration >= config.min_seconds]
        left_out = len(found) - len(self.cuts)
        if left_out:
            LOGGER.info(
                "%s: %d of %d utterances are shorter than %g s, left out",
                split,
                left_out,
                len(found),
                config.min_seconds,
            )
        if not self.cuts:
            raise CorpusError(
                f"split '{split}': none of {len(found)} utterances lasts data.min_seconds={config.min_seconds} s"
            )
        self.seconds = sum(cut.duration for cut in self.cuts)
        self._whole = {cut.id: cut for cut in self.cuts}
        self._cache: dict[str, NDArray[np.float32]] = {}
        self._cached = config.workers == 0 and self.seconds <= config.cache_hours * 3600
        self._batches = Batches(
            self.cuts,
            self.make,
            seconds=config.batch_seconds,
            seed=seed,
            shuffle=shuffle,
            workers=config.workers,
            crop=self._crop,
            enough=enough,
        )

    def __call__(self, epoch: int, skip: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the epoch's batches, without the first `skip`; the same ones every time. See Batches."""
        return self._batches(epoch, skip, rank=rank, world=world)

    def stream(self, *, rank: int = 0, world: int = 1) -> Stream[Batch]:
        """Return one process's share of epoch after epoch. See Batches."""
        return self._batches.stream(rank=rank, world=world)

    def make(self, cuts: Sequence[Any]) -> Batch:
        """Read, normalise and crop the cuts' audio, and crop their labels by the same frames."""
        waves, labels = [], []
        for cut in cuts:
            whole = self._read(cut)
            first = (cut.custom or {}).get("first_frame", 0)
            count = round(cut.duration * audio.RATE)
            waves.append(whole[first * STRIDE : first * STRIDE + count])
            if self.labels is not None:
                values = self.labels.get(cut.id, frame_count(len(whole)))
                labels.append(values[first : first + frame_count(len(waves[-1]))].astype(np.int64))
        waveforms, lengths = pad(waves)
        return Batch(waveforms, lengths, pad(labels)[0] if labels else None, [cut.id for cut in cuts])

    def _crop(self, cut: Any, epoch: int) -> Any:  # noqa: ANN401
        """Return the cut, or max_seconds of it from a frame that depends on seed, epoch and utterance alone."""
        if cut.duration <= self.config.max_seconds:
            return cut
        room = int((cut.duration - self.config.max_seconds) * audio.RATE) // STRIDE
        drawn = hashlib.blake2b(f"{self.seed} {epoch} {cut.id}".encode(), digest_size=8).digest()
        first = int.from_bytes(drawn) % (room + 1) if self.shuffle else 0
        cropped = cut.truncate(duration=self.config.max_seconds, preserve_id=True)
        cropped.custom = {"first_frame": first}
        return cropped

    def _read(self, cut: Any) -> NDArray[np.float32]:  # noqa: ANN401
        """Return the whole utterance (N,): it is normalised before it is cropped."""
        if cut.id in self._cache:
            return self._cache[cut.id]
        samples = audio.read(self._whole[cut.id])
        if self.normalized:
            samples = normalize(torch.from_numpy(samples)).numpy()
        if self._cached:
            self._cache[cut.id] = samples
        return samples
