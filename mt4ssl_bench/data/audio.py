"""A cut to 16 kHz mono float32 samples; what cannot be read is an error with the utterance's id."""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from mt4ssl_bench.data import resampling
from mt4ssl_bench.data.audio_headers import UNREADABLE, check_rate, reason_of
from mt4ssl_bench.data.cut import Cut, others_of
from mt4ssl_bench.data.file_state import is_changed, on_disk, require_unchanged
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import import_torchaudio

RATE = 16_000
BLOCK = 2**24  # values decoded at a time: what a header states must not decide the memory taken
LOOK = 1000  # files looked at when a pretraining opens a split
SHORT = 0.1  # seconds by which a compressed file may fall short of its header

if TYPE_CHECKING:
    import torch


Samples = NDArray[np.float32]


def read(cut: Cut, name: str = "") -> Samples:
    """Load the audio of a cut.

    Args:
        cut: The cut.
        name: Other audio of the cut to load instead, for example "clean"; see others_of().

    Returns:
        float32 samples (N,) at 16 kHz; channels are averaged.

    Raises:
        CorpusError: If the audio cannot be read; the message names the utterance.
        AudioChangedError: If it can be read, and the file is not the one that was prepared.
    """
    source, rate = cut.recording.sources[0], cut.recording.sampling_rate
    start, count = round(cut.start * rate), round(cut.duration * rate)
    try:
        if name:
            path = _other(cut, name)
        elif isinstance(source.source, bytes):  # audio inside a shard
            return _read(io.BytesIO(source.source), "its shard", start, count)
        else:
            path = Path(source.source)
        samples = read_file(path, start=start, count=count)
    except CorpusError as error:
        raise CorpusError(f"utterance '{cut.id}': {error}") from None
    require_unchanged(cut, name)
    return samples


def _other(cut: Cut, name: str) -> Path:
    others = others_of(cut)
    if name not in others:
        raise CorpusError(f"no other audio '{name}'; {hint(name, others)}")
    return others[name]


def require_some_unchanged(cuts: Sequence[Cut]) -> None:
    """Look at LOOK cuts, spread over all: a corpus whose audio was made anew shows before any work.

    Raises:
        AudioChangedError: If a file can be read, and is not the one that was prepared.
    """
    for place in range(0, len(cuts), -(-len(cuts) // LOOK) or 1):
        if is_changed(cuts[place]):
            with suppress(CorpusError):
                read(cuts[place])


def read_file(path: Path, *, start: int = 0, count: int = -1) -> Samples:
    """Return 16 kHz mono (N,) of `count` samples (-1: all) from `start`, at the file's rate."""
    return _read(on_disk(path), path, start, count)


def _read(file: Path | io.BytesIO, name: object, start: int, count: int) -> Samples:
    try:
        with soundfile.SoundFile(file) as opened:
            rate = opened.samplerate
            check_rate(name, rate)
            parts = [to_mono(block) for block in blocks(opened, start, count)]
    except UNREADABLE as error:
        raise CorpusError(f"{name}: {reason_of(file, error)}") from None
    decoded = sum(map(len, parts))
    if not decoded or decoded < count - SHORT * rate:
        raise CorpusError(
            f"{name}: truncated or changed: {decoded} samples from {start}, not {max(count, 1)}"
        )
    mono = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if rate != RATE:
        mono = _resample(mono, rate)
    if not np.isfinite(mono).all():
        raise CorpusError(f"{name}: holds NaN or infinite samples")
    return np.ascontiguousarray(mono, dtype=np.float32)


def to_mono(block: NDArray[np.float32]) -> Samples:
    """Return the average (N,) of the channels of a block (N, channels)."""
    mono: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return mono


def blocks(
    opened: soundfile.SoundFile, start: int, count: int, size: int = BLOCK
) -> Iterator[NDArray[np.float32]]:
    """Yield up to `count` frames (-1: all) from `start` on, as float32 (N, channels)."""
    left = max(opened.frames - start, 0)
    left = left if count < 0 else min(left, count)
    opened.seek(min(start, opened.frames))
    most = max(size // opened.channels, 1)
    while left > 0 and len(block := opened.read(min(left, most), dtype="float32", always_2d=True)):
        left -= len(block)
        yield block


def _resample(samples: Samples, rate: int) -> Samples:
    if resampling.table_size(rate, RATE) > resampling.TABLE:
        return resampling.resample(samples, rate, RATE)
    import torch

    resampled: Samples = _resampler(rate)(torch.from_numpy(np.ascontiguousarray(samples))).numpy()
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int) -> "torch.nn.Module":
    torchaudio = import_torchaudio(f"audio at {rate} Hz")
    resampler: torch.nn.Module = torchaudio.transforms.Resample(rate, RATE)
    return resampler
