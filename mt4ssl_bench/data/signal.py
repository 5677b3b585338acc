"""What the samples of a file are like: level, clipping, silence, and a digest of them."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.errors import CorpusError

FULL = 0.999  # of full scale: where a clipped sample stands


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
    finite, heard, rate, channels, container = True, np.zeros(1, bool), audio.RATE, 1, ""
    digest = hashlib.blake2b(digest_size=16)
    file = on_disk(file) if isinstance(file, Path) else file
    try:
        with soundfile.SoundFile(file) as opened:
            rate, channels, container = opened.samplerate, opened.channels, opened.format
            digest.update(str(rate).encode())
            heard = np.zeros(channels, bool)
            for block in audio.blocks(opened, start, count, 60 * rate * channels):
                frames += len(block)
                digest.update(
                    (audio.to_mono(block) + np.float32(0)).tobytes()
                )  # 0, for -0 is the same sample
                finite = finite and bool(np.isfinite(block).all())
                loud = np.abs(block)
                heard |= loud.any(axis=0)
                clipped += int(np.count_nonzero(loud >= FULL))
                square += float(np.einsum("nc,nc->", block, block, dtype=np.float64))
                total += float(block.sum(dtype=np.float64))
                run = max(run, _longest_run(loud.max(axis=1) == 0))
    except audio_headers.UNREADABLE as error:
        name = file if isinstance(file, Path) else "its shard"
        raise CorpusError(f"{name}: {audio_headers.reason_of(file, error)}") from None
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
