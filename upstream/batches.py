"""Pretraining batches: audio and labels, cropped by the same frames and joined by utterance id.

Shapes: B batch, N samples, T frames.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.config import NOT_NEGATIVE, POSITIVE, Bounds
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.audio_cache import AudioCache
from mt4ssl_bench.data.batches import Batches, Stream, pad
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.frame_grid import STRIDE, frame_count
from mt4ssl_bench.data.label_store import CarriedLabels, LabelStore
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.frontend import normalize

LOGGER = logging.getLogger(__name__)
TRIES = 100  # utterances that are tried in place of an unreadable batch before the run stops

Crop = tuple[Cut, int]  # a cut and its first frame
Sample = tuple[NDArray[np.float32], NDArray[np.int64]]  # audio (N,) and labels (T,)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which audio, and how it is batched."""

    corpus: tuple[str, ...] = ()  # prepared corpora or shards, as paths or URLs
    train: str = "train"  # name of the training split
    valid: str = "valid"  # name of the validation split
    min_seconds: float = 2.0  # seconds; shorter utterances are left out and counted
    max_seconds: float = 20.0  # seconds; longer utterances are cropped at random
    batch_seconds: float = 237.5  # seconds of audio per batch, padding included
    workers: int = 4  # loader processes; 0 loads in the training process
    # fraction of unreadable utterances above which the run stops; one is always allowed
    max_unreadable: float = 0.001
    # with workers=0, hours of decoded audio that are kept in memory (230 MB each)
    cache_hours: float = 0.0

    BOUNDS: ClassVar[Bounds] = {
        ("0.05 or more", lambda seconds: seconds >= 0.05): "min_seconds",
        POSITIVE: "batch_seconds max_seconds",
        NOT_NEGATIVE: "workers max_unreadable cache_hours",
    }


@dataclass(frozen=True)
class Batch:
    """Normalized, padded waveforms (B, N), their lengths (B,) in samples, and labels (B, T)."""

    waveforms: Tensor
    lengths: Tensor
    labels: Tensor | None
    ids: list[str]
    skipped: dict[str, str] = field(default_factory=dict)  # unreadable utterances -> reason

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU copies from; torch's loader asks for it."""
        labels = None if self.labels is None else self.labels.pin_memory()
        return replace(self, waveforms=self.waveforms.pin_memory(), labels=labels)

    @property
    def seconds(self) -> float:
        """Seconds of audio without padding."""
        return float(self.lengths.sum()) / audio.RATE


class PretrainData:
    """The audio of one split of all corpora; call with (epoch, skip) for its batches.

    Args:
        labels: Joined by utterance id; None if no extractor reads labels.
        normalized: Normalize each whole waveform before it is cropped.
        stack: Frames of 20 ms that the model reads as one; it gets the label of the first.
        shuffle: Draw the order and the crops; otherwise the order is fixed and crops begin at 0.
        enough: End an epoch with the batch that reaches this many seconds of audio.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        split: str,
        config: DataConfig,
        labels: LabelStore | CarriedLabels | None,
        *,
        normalized: bool,
        stack: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        enough: float | None = None,
    ) -> None:
        self.config, self.labels, self.normalized = config, labels, normalized
        self.seed, self.shuffle, self.stack = seed, shuffle, stack
        self.cuts = Joined([corpus.cuts(split) for corpus in corpora], config.min_seconds)
        short, least = self.cuts.short, f"data.min_seconds={config.min_seconds:g} s"
        if not self.cuts:
            raise CorpusError(f"split '{split}': none of {short} utterances lasts {least}")
        if short:
            LOGGER.info("%s: %d utterances are under %s, left out", split, short, least)
        if self.cuts.shards is None:
            audio.require_some_unchanged(self.cuts)
        self.seconds = float(self.cuts.durations.sum())
        self.unreadable: dict[str, str] = {}  # utterance id -> reason
        self._read = AudioCache(
            self._whole,
            seconds=self.seconds,
            hours=config.cache_hours,
            workers=config.workers,
        )
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
        """Yield one process's batches of an epoch, without its first `skip`; see Batches."""
        return map(self._checked, self._batches(epoch, skip, rank=rank, world=world))

    def stream(self, *, rank: int = 0, world: int = 1) -> Stream[Batch]:
        """Return one process's batches of epoch after epoch; see Batches."""
        batches = self._batches.stream(rank=rank, world=world)
        return lambda place: ((after, self._checked(batch)) for after, batch in batches(place))

    def make(self, crops: Sequence[Crop]) -> Batch:
        """Read, normalize and crop audio, and crop its labels by the same frames.

        Unreadable utterances are left out and named in `skipped`. If all are, others take their
        place: without this batch, every later one would move, and a resumed run would differ.

        Raises:
            CorpusError: If no substitute can be read either.
            CheckpointError: If labels do not fit their audio.
        """
        samples: list[tuple[str, Sample]] = []
        skipped: dict[str, str] = {}  # utterance id -> reason
        tried = itertools.chain(crops, self._substitutes(crops[0][0].id))
        for number, (cut, first) in enumerate(tried, start=1):
            try:
                samples.append((cut.id, self._sample(cut, first)))
            except CorpusError as error:
                skipped[cut.id] = str(error)
            if samples and number >= len(crops):
                break
        if not samples:
            reason = next(iter(skipped.values()))
            raise CorpusError(
                f"none of {len(skipped)} utterances in a row can be read; the first: {reason}"
            )
        waveforms, lengths = pad([wave for _, (wave, _) in samples])
        labels = None if self.labels is None else pad([labels for _, (_, labels) in samples])[0]
        return Batch(waveforms, lengths, labels, [name for name, _ in samples], skipped)

    def _substitutes(self, name: str) -> Iterator[Crop]:
        """Yield TRIES utterances from a place in the corpus that depends only on `name`."""
        first = draw(name)
        for place in range(TRIES):
            yield self._crop(self.cuts[(first + place) % len(self.cuts)], 0)

    def _sample(self, cut: Cut, first: int) -> Sample:
        """Return the cut's audio (N,) and labels (T,) from frame `first` on."""
        whole = self._read(cut)
        wave = whole[first * STRIDE :][: round(self.config.max_seconds * audio.RATE)]
        if self.labels is None:
            return wave, np.zeros(0, np.int64)
        labels = self.labels.of(cut, frame_count(len(whole)))[first :: self.stack]
        return wave, labels[: frame_count(len(wave)) // self.stack].astype(np.int64)

    def _checked(self, batch: Batch) -> Batch:
        """Return the batch; log its unreadable utterances, and raise CorpusError for too many."""
        for name, reason in batch.skipped.items():
            if name not in self.unreadable:
                self.unreadable[name] = reason
                LOGGER.error("left out, %d so far: %s", len(self.unreadable), reason)
        if len(self.unreadable) > max(1, self.config.max_unreadable * len(self.cuts)):
            first = next(iter(self.unreadable.values()))
            raise CorpusError(
                f"{len(self.unreadable)} of {len(self.cuts)} utterances cannot be read, more than "
                f"data.max_unreadable={self.config.max_unreadable:g} allows; the first: {first}"
            )
        return batch

    def _crop(self, cut: Cut, epoch: int) -> Crop:
        """Return the cut with its first frame, which depends only on seed, epoch and utterance."""
        if cut.duration <= self.config.max_seconds or not self.shuffle:
            return cut, 0
        room = int((cut.duration - self.config.max_seconds) * audio.RATE) // STRIDE
        return cut, draw(self.seed, epoch, cut.id) % (room + 1)

    def _whole(self, cut: Cut) -> NDArray[np.float32]:
        """Return the whole utterance (N,): its normalization is over all of it, not over a crop."""
        samples = audio.read(cut)
        return normalize(torch.from_numpy(samples)).numpy() if self.normalized else samples
