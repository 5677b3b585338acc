"""A cut to 16 kHz mono float32 samples; anything that cannot be read raises CorpusError naming the utterance."""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.wheels import import_torchaudio

RATE = 16_000
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
    """Return the cut's audio (N,) at 16 kHz, channels averaged; raises CorpusError for what cannot be read."""
    source, rate = cut.recording.sources[0], cut.recording.sampling_rate
    start, count = round(cut.start * rate), round(cut.duration * rate)
    try:
        if source.type == "memory":  # audio inside a shard
            return _read(io.BytesIO(source.source), "its shard", start, count)
        return read_file(Path(source.source), start=start, count=count)
    except CorpusError as error:
        raise CorpusError(f"utterance '{cut.id}': {error}") from None


def read_file(path: Path, *, start: int = 0, count: int = -1) -> Samples:
    """Return `count` samples from `start`, both at the file's own rate, as 16 kHz mono (N,); -1 reads to the end."""
    return _read(path, path, start, count)


def _read(file: Path | io.BytesIO, name: object, start: int, count: int) -> Samples:
    try:
        samples, rate = soundfile.read(
            file, start=start, frames=count, dtype="float32", always_2d=True
        )
    except UNREADABLE as error:
        raise CorpusError(f"{name}: {_reason(file, error)}") from None
    if not len(samples) or len(samples) < count - SHORT * rate:
        raise CorpusError(
            f"{name}: truncated or changed: {len(samples)} samples from {start}, not {max(count, 1)}"
        )
    mono: Samples = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != RATE:
        mono = _resample(mono, rate)
    if not np.isfinite(mono).all():
        raise CorpusError(f"{name}: holds NaN or infinite samples")
    return np.ascontiguousarray(mono, dtype=np.float32)


def probe(path: Path) -> tuple[int, int, int]:
    """Return a file's (frames, sample rate, channels) from its header; raises CorpusError when there is none."""
    try:
        info = soundfile.info(path)
    except UNREADABLE as error:
        raise CorpusError(f"{path}: {_reason(path, error)}") from None
    if info.frames <= 0:
        raise CorpusError(f"{path}: holds no samples")
    return int(info.frames), int(info.samplerate), int(info.channels)


@dataclass(frozen=True)
class Signal:
    """What the samples of a stretch of audio are like, all channels together; levels are of full scale (1.0)."""

    frames: int
    finite: bool
    clipped: float  # share of samples at full scale
    level: float  # root mean square
    offset: float  # mean
    silence: float  # seconds of the longest run of zeros
    silent: bool  # nothing but zeros
    dead_channel: bool  # one channel of zeros beside another that is not


def examine(path: Path, *, start: int = 0, count: int = -1) -> Signal:
    """Decode `count` frames from `start`, a minute at a time; raises CorpusError when the decoder gives up."""
    frames, clipped, square, total, run = 0, 0, 0.0, 0.0, 0
    finite, heard, rate, channels = True, np.zeros(1, bool), RATE, 1
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
            heard = np.zeros(channels, bool)
            file.seek(start)
            left = count if count >= 0 else file.frames - start
            while left > 0 and len(
                block := file.read(min(left, 60 * rate), dtype="float32", always_2d=True)
            ):
                frames, left = frames + len(block), left - len(block)
                finite = finite and bool(np.isfinite(block).all())
                loud = np.abs(block)
                heard |= loud.any(axis=0)
                clipped += int(np.count_nonzero(loud >= FULL))
                square += float(np.einsum("nc,nc->", block, block, dtype=np.float64))
                total += float(block.sum(dtype=np.float64))
                run = max(run, _longest_run(loud.max(axis=1) == 0))
    except UNREADABLE as error:
        raise CorpusError(f"{path}: {_reason(path, error)}") from None
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
    )


def _longest_run(mask: NDArray[np.bool_]) -> int:
    if not mask.any():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).view(np.int8)))
    return int((edges[1::2] - edges[::2]).max())


def _resample(samples: Samples, rate: int) -> Samples:
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
    return f"unreadable audio ({str(error).split(': ')[-1].rstrip('.')})"
