"""A cut to 16 kHz mono float32 samples.

Anything that cannot be read raises CorpusError naming the utterance.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from mt4ssl_bench.data import resampling
from mt4ssl_bench.data.containers import DENSEST, defect_of
from mt4ssl_bench.data.file_state import is_changed, on_disk, require_unchanged
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.wheels import import_torchaudio

RATE = 16_000
RATES = (1_000, 1_000_000)  # Hz of recordings; a header with another rate is no recording's
BLOCK = 2**24  # values decoded at a time: what a header states must not decide the memory taken
LOOK = 1000  # files looked at when a pretraining opens a split
SHORT = 0.1  # seconds by which a compressed file may fall short of its header
FULL = 0.999  # of full scale: where a clipped sample stands
SUFFIXES = frozenset(  # what libsndfile reads, as it is named in corpora
    {
        ".flac",
        ".wav",
        ".ogg",
        ".opus",
        ".mp3",
        ".aiff",
        ".aif",
        ".au",
        ".sph",
        ".nist",
        ".w64",
        ".rf64",
        ".caf",
    }
)
OTHER = frozenset(
    {".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".ape", ".mka"}
)  # audio that it does not

UNREADABLE = (soundfile.LibsndfileError, OSError, RuntimeError, UnicodeEncodeError)

Samples = NDArray[np.float32]


def read(cut: Any) -> Samples:  # noqa: ANN401 - lhotse ships no types
    """Load the audio of a cut.

    Returns:
        float32 samples (N,) at 16 kHz; channels are averaged.

    Raises:
        CorpusError: If the audio cannot be read; the message names the utterance.
        AudioChangedError: If it can be read, and the file is not the one that was prepared.
    """
    source, rate = cut.recording.sources[0], cut.recording.sampling_rate
    start, count = round(cut.start * rate), round(cut.duration * rate)
    try:
        if source.type == "memory":  # audio inside a shard
            return _read(io.BytesIO(source.source), "its shard", start, count)
        samples = read_file(Path(source.source), start=start, count=count)
    except CorpusError as error:
        raise CorpusError(f"utterance '{cut.id}': {error}") from None
    require_unchanged(cut)
    return samples


def require_some_unchanged(cuts: Sequence[Any]) -> None:
    """Look at LOOK cuts, spread over all: a corpus whose audio was made anew shows before any work.

    Raises:
        AudioChangedError: If a file can be read, and is not the one that was prepared.
    """
    for place in range(0, len(cuts), -(-len(cuts) // LOOK) or 1):
        if is_changed(cuts[place]):
            with suppress(CorpusError):
                read(cuts[place])


def read_file(path: Path, *, start: int = 0, count: int = -1) -> Samples:
    """Return `count` samples from `start`, both at the file's own rate, as 16 kHz mono (N,); -1
    reads to the end.
    """
    return _read(on_disk(path), path, start, count)


def _read(file: Path | io.BytesIO, name: object, start: int, count: int) -> Samples:
    try:
        with soundfile.SoundFile(file) as opened:
            rate = opened.samplerate
            _check_rate(name, rate)
            blocks = [_mono(block) for block in _blocks(opened, start, count)]
    except UNREADABLE as error:
        raise CorpusError(f"{name}: {_reason(file, error)}") from None
    decoded = sum(map(len, blocks))
    if not decoded or decoded < count - SHORT * rate:
        raise CorpusError(
            f"{name}: truncated or changed: {decoded} samples from {start}, not {max(count, 1)}"
        )
    mono = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if rate != RATE:
        mono = _resample(mono, rate)
    if not np.isfinite(mono).all():
        raise CorpusError(f"{name}: holds NaN or infinite samples")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _mono(block: NDArray[np.float32]) -> Samples:
    mono: Samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    return mono


def _blocks(
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


def probe(path: Path) -> tuple[int, int, int]:
    """Return a file's (frames, sample rate, channels) from its header.

    Raises:
        CorpusError: If there is no header that can be read, or one that no recording has.
    """
    path = on_disk(path)
    try:
        info = soundfile.info(path)
        size = path.stat().st_size
    except UNREADABLE as error:
        raise CorpusError(f"{path}: {_reason(path, error)}") from None
    if info.frames <= 0 or info.frames > size * DENSEST:
        defect = defect_of(path)
        raise CorpusError(f"{path}: {defect[1] if defect else 'holds no samples'}")
    _check_rate(path, info.samplerate)
    return int(info.frames), int(info.samplerate), int(info.channels)


def _check_rate(name: object, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise CorpusError(
            f"{name}: its header states {rate:,} Hz; expected {RATES[0]:,} to {RATES[1]:,} Hz"
        )


@dataclass(frozen=True)
class Signal:
    """What the samples of a stretch of audio are like, all channels together.

    Levels are of full scale (1.0).
    """

    frames: int
    finite: bool
    clipped: float  # share of samples at full scale
    level: float  # root mean square
    offset: float  # mean
    silence: float  # seconds of the longest run of zeros
    silent: bool  # nothing but zeros
    dead_channel: bool  # one channel of zeros beside another that is not
    container: str  # as libsndfile names it: "WAV", "MP3", ...
    digest: str  # of rate and samples, channels averaged: equal in every lossless container


def examine(file: Path | io.BytesIO, *, start: int = 0, count: int = -1) -> Signal:
    """Decode `count` frames from `start`, a minute at a time.

    Raises CorpusError when the decoder gives up.
    """
    frames, clipped, square, total, run = 0, 0, 0.0, 0.0, 0
    finite, heard, rate, channels, container = True, np.zeros(1, bool), RATE, 1, ""
    digest = hashlib.blake2b(digest_size=16)
    file = on_disk(file) if isinstance(file, Path) else file
    try:
        with soundfile.SoundFile(file) as opened:
            rate, channels, container = opened.samplerate, opened.channels, opened.format
            digest.update(str(rate).encode())
            heard = np.zeros(channels, bool)
            for block in _blocks(opened, start, count, 60 * rate * channels):
                frames += len(block)
                digest.update(
                    (_mono(block) + np.float32(0)).tobytes()
                )  # 0, for -0 is the same sample
                finite = finite and bool(np.isfinite(block).all())
                loud = np.abs(block)
                heard |= loud.any(axis=0)
                clipped += int(np.count_nonzero(loud >= FULL))
                square += float(np.einsum("nc,nc->", block, block, dtype=np.float64))
                total += float(block.sum(dtype=np.float64))
                run = max(run, _longest_run(loud.max(axis=1) == 0))
    except UNREADABLE as error:
        name = file if isinstance(file, Path) else "its shard"
        raise CorpusError(f"{name}: {_reason(file, error)}") from None
    values = max(frames * channels, 1)
    return Signal(
        frames=frames,
        finite=finite,
        clipped=clipped / values,
        level=(square / values) ** 0.5,
        offset=total / values,
        silence=run / rate,
        silent=not heard.any(),
        dead_channel=bool(heard.any() and not heard.all()),
        container=container,
        digest=digest.hexdigest(),
    )


def _longest_run(mask: NDArray[np.bool_]) -> int:
    if not mask.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).view(np.int8)))
    return int((edges[1::2] - edges[::2]).max())


def _resample(samples: Samples, rate: int) -> Samples:
    if resampling.table_size(rate, RATE) > resampling.TABLE:
        return resampling.resample(samples, rate, RATE)
    import torch

    resampled: Samples = _resampler(rate)(torch.from_numpy(np.ascontiguousarray(samples))).numpy()
    return resampled


@lru_cache(maxsize=8)
def _resampler(rate: int) -> Any:  # noqa: ANN401 - torchaudio ships no types
    torchaudio = import_torchaudio(f"audio at {rate} Hz")
    return torchaudio.transforms.Resample(rate, RATE)


def _reason(file: Path | io.BytesIO, error: Exception) -> str:
    if isinstance(file, Path) and not file.exists():
        return "no such file"
    if isinstance(error, UnicodeEncodeError):
        return "its name is not in the system's encoding; rename it"
    if isinstance(file, Path) and (defect := defect_of(file)):
        return defect[1]
    return f"unreadable audio ({str(error).split(': ')[-1].rstrip('.')})"
