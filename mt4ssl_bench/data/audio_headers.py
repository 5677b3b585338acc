"""What an audio file is before it is decoded: its suffix, its header, and why it cannot be read."""

import io
from pathlib import Path

import soundfile

from mt4ssl_bench.data.containers import DENSEST, defect_of
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.errors import CorpusError

RATES = (1_000, 1_000_000)  # Hz of recordings; a header with another rate is no recording's
# what libsndfile reads, as it is named in corpora; and audio that it does not
COMMON = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
SUFFIXES = frozenset([*COMMON, ".au", ".sph", ".nist", ".w64", ".rf64", ".caf"])
OTHER = frozenset([".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".ape", ".mka"])
UNREADABLE = (soundfile.LibsndfileError, OSError, RuntimeError, UnicodeEncodeError)


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
        raise CorpusError(f"{path}: {reason_of(path, error)}") from None
    if info.frames <= 0 or info.frames > size * DENSEST:
        defect = defect_of(path)
        raise CorpusError(f"{path}: {defect[1] if defect else 'holds no samples'}")
    check_rate(path, info.samplerate)
    return int(info.frames), int(info.samplerate), int(info.channels)


def check_rate(name: object, rate: int) -> None:
    """Raise CorpusError for a sample rate that no recording has."""
    if not RATES[0] <= rate <= RATES[1]:
        raise CorpusError(
            f"{name}: its header states {rate:,} Hz; expected {RATES[0]:,} to {RATES[1]:,} Hz"
        )


def reason_of(file: Path | io.BytesIO, error: Exception) -> str:
    """Return why a file cannot be read, in words for users."""
    if isinstance(file, Path) and not file.exists():
        return "no such file"
    if isinstance(error, UnicodeEncodeError):
        return "its name is not in the system's encoding; rename it"
    if isinstance(file, Path) and (defect := defect_of(file)):
        return defect[1]
    return f"unreadable audio ({str(error).split(': ')[-1].rstrip('.')})"
