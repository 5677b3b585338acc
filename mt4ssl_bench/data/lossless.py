"""Containers that keep every sample of a cut: FLAC of 16 or 24 bit, or else WAV of 32-bit floats.

Shapes: N samples, C channels.
"""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mt4ssl_bench.data.audio import blocks
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.file_state import on_disk

# the smallest first
CONTAINERS = (("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "FLOAT"))


def encode(cut: Cut) -> tuple[str, bytes]:
    """Return a cut's audio in the first of CONTAINERS from which it is decoded to equal samples.

    All channels are kept, at their own rate. audio.read() must have accepted the cut.

    Returns:
        The container, "flac" or "wav", and its bytes.
    """
    return encode_samples(_decoded(cut), cut.recording.sampling_rate)


def encode_samples(samples: NDArray[np.float32], rate: int) -> tuple[str, bytes]:
    """Return samples (N, C) in the first of CONTAINERS from which they are decoded to the same."""
    for container, kind in CONTAINERS:
        file = io.BytesIO()
        with suppress(soundfile.LibsndfileError):  # FLAC has at most 8 channels
            soundfile.write(file, samples, rate, format=container, subtype=kind)
            file.seek(0)
            if np.array_equal(soundfile.read(file, dtype="float32", always_2d=True)[0], samples):
                return container, file.getvalue()
    raise AssertionError


def fits_16_bit(cut: Cut) -> bool:
    """Return whether FLAC of 16 bit holds a cut's samples."""
    return bool(soundfile.info(io.BytesIO(encode(cut)[1])).subtype == "PCM_16")


def _decoded(cut: Cut) -> NDArray[np.float32]:
    """Return the samples (N, C) that audio.read() takes from a cut's file or shard."""
    source, rate = cut.recording.sources[0].source, cut.recording.sampling_rate
    file = io.BytesIO(source) if isinstance(source, bytes) else on_disk(Path(source))
    with soundfile.SoundFile(file) as opened:
        return np.concatenate(
            list(blocks(opened, round(cut.start * rate), round(cut.duration * rate)))
        )
