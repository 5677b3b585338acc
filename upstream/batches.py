"""Pretraining batches: audio and labels cropped by the same frames, joined by utterance id.

Shapes: B batch, N samples, T frames.
"""

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.batches import Batches, Stream, pad
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.frame_grid import STRIDE, frame_count
from mt4ssl_bench.data.labels import CarriedLabels, LabelStore
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.config import DataConfig
from mt4ssl_bench.upstream.waveforms import normalize

LOGGER = logging.getLogger(__name__)
TRIES = 100  # utterances tried in place of a batch that cannot be read, before the run stops

Part = tuple[Any, int]  # a cut and the frame it is cropped from
Sample = tuple[NDArray[np.float32], NDArray[np.int64]]  # audio and labels


@dataclass(frozen=True)
class Batch:
    """One batch: `waveforms` (B, N) normalised and zero-padded, `lengths` (B,) samples, `labels`
    (B, T) or None.
    """

    waveforms: Tensor
    lengths: Tensor
    labels: Tensor | None
    ids: list[str]
    skipped: dict[str, str] = field(
        default_factory=dict
    )  # utterances that could not be read, and why

    @property
    def seconds(self) -> float:
        """Seconds of real audio."""
        return float(self.lengths.sum()) / audio.RATE

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        waveforms = self.waveforms.to(device, non_blocking=True)
        lengths = self.lengths.to(device, non_blocking=True)
        return replace(self, waveforms=waveforms, lengths=lengths, labels=labels)


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
        labels: LabelStore | CarriedLabels | None,
        *,
        normalized: bool,
        seed: int = 0,
        shuffle: bool = True,
        enough: float | None = None,
    ) -> None:
        self.config, self.labels, self.normalized = config, labels, normalized
        self.seed, self.shuffle = seed, shuffle
        self.cuts = Joined([corpus.cuts(split) for corpus in corpora], config.min_seconds)
        found = len(self.cuts) + self.cuts.short
        if self.cuts.short:
            said = "%s: %d of %d utterances are shorter than %g s, left out"
            LOGGER.info(said, split, self.cuts.short, found, config.min_seconds)
        if not self.cuts:
            raise CorpusError(
                f"split '{split}': none of {found} utterances lasts "
                f"data.min_seconds={config.min_seconds} s"
            )
        if self.cuts.shards is None:
            audio.require_some_unchanged(self.cuts)
        self.seconds = float(self.cuts.durations.sum())
        self.unreadable: dict[str, str] = {}  # utterance id -> what is wrong with it
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
            longest=config.max_seconds,
            enough=enough,
        )

    def __call__(
        self, epoch: int, skip: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield the epoch's batches, without the first `skip`; the same ones every time.

        See Batches.
        """
        return map(self._noted, self._batches(epoch, skip, rank=rank, world=world))

    def stream(self, *, rank: int = 0, world: int = 1) -> Stream[Batch]:
        """Return one process's share of epoch after epoch. See Batches."""
        batches = self._batches.stream(rank=rank, world=world)
        return lambda place: ((after, self._noted(batch)) for after, batch in batches(place))

    def make(self, parts: Sequence[Part]) -> Batch:
        """Read, normalise and crop the cuts' audio, and crop their labels by the same frames.

        What cannot be read is left out and named in `skipped`; labels that do not fit raise
        CheckpointError.
        """
        found: list[tuple[str, Sample]] = []
        skipped: dict[str, str] = {}
        for tried, (cut, first) in enumerate(
            itertools.chain(parts, self._others(parts[0][0].id)), start=1
        ):
            try:
                found.append((cut.id, self._sample(cut, first)))
            except CorpusError as error:
                skipped[cut.id] = str(error)
            if found and tried >= len(parts):
                break
        if not found:
            reason = next(iter(skipped.values()))
            raise CorpusError(
                f"none of {len(skipped)} utterances in a row can be read; the first: {reason}"
            )
        ids = [name for name, _ in found]
        waveforms, lengths = pad([wave for _, (wave, _) in found])
        labels = None if self.labels is None else pad([values for _, (_, values) in found])[0]
        return Batch(waveforms, lengths, labels, ids, skipped)

    def _others(self, name: str) -> Iterator[Part]:
        """Yield utterances that stand in for a batch nothing of which can be read.

        Going on without the batch would move every later one, and with it what a resumed run reads.
        """
        start = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % len(
            self.cuts
        )
        for place in range(start, start + TRIES):
            yield self._crop(self.cuts[place % len(self.cuts)], 0)

    def _sample(self, cut: Any, first: int) -> Sample:  # noqa: ANN401 - lhotse ships no types
        """Return audio (N,) and labels (T,) from frame `first` of the cut on."""
        whole = self._read(cut)
        wave = whole[first * STRIDE :][: round(self.config.max_seconds * audio.RATE)]
        if self.labels is None:
            return wave, np.zeros(0, np.int64)
        labels = self.labels.of(cut, frame_count(len(whole)))
        return wave, labels[first : first + frame_count(len(wave))].astype(np.int64)

    def _noted(self, batch: Batch) -> Batch:
        """Return the batch.

        Raises CorpusError when more of the corpus than data.max_unreadable could not be read.
        """
        for name, reason in batch.skipped.items():
            if name not in self.unreadable:
                self.unreadable[name] = reason
                LOGGER.error(
                    "left out, %d so far: %s", len(self.unreadable), reason
                )  # said by every process
        if len(self.unreadable) > max(1, self.config.max_unreadable * len(self.cuts)):
            first = next(iter(self.unreadable.values()))
            raise CorpusError(
                f"{len(self.unreadable)} of {len(self.cuts)} utterances cannot be read, more than "
                f"data.max_unreadable={self.config.max_unreadable:g} allows; the first: {first}"
            )
        return batch

    def _crop(self, cut: Any, epoch: int) -> Part:  # noqa: ANN401
        """Return the cut with the frame that the epoch begins at: drawn from seed, epoch and
        utterance alone.
        """
        if cut.duration <= self.config.max_seconds or not self.shuffle:
            return cut, 0
        room = int((cut.duration - self.config.max_seconds) * audio.RATE) // STRIDE
        drawn = hashlib.blake2b(f"{self.seed} {epoch} {cut.id}".encode(), digest_size=8).digest()
        return cut, int.from_bytes(drawn) % (room + 1)

    def _read(self, cut: Any) -> NDArray[np.float32]:  # noqa: ANN401
        """Return the whole utterance (N,): it is normalised before it is cropped."""
        if cut.id in self._cache:
            return self._cache[cut.id]
        samples = audio.read(cut)
        if self.normalized:
            samples = normalize(torch.from_numpy(samples)).numpy()
        if self._cached:
            self._cache[cut.id] = samples
        return samples
