"""Lengths of audio files: what their headers state against what they hold; nothing is decoded.

WAV (RIFF, RIFX, RF64, BW64), W64, AIFF, AU, CAF and NIST state a size in bytes. MP3 states a number
of frames, whose headers are counted here. Ogg ends with a page that is marked as its last. FLAC
states samples, which only decoding can count.
"""

import mmap
import re
import shlex
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mt4ssl_bench.data.mpeg import count_frames, id3_bytes, mp3_frame

Defect = tuple[str, str]  # kind (of findings.KINDS), and what is wrong in words

# 32-bit sizes from here on mean "to the end": sox, arecord, ffmpeg to a pipe
OPEN_ENDED = 0x7FFFF000
SLACK = 0.1  # seconds of audio beyond the header that are no finding
DENSEST = 8192  # samples per byte: a FLAC frame of silence holds no more
W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # the last 12 bytes of its chunks' names
CHUNK_NAME = re.compile(rb"[A-Za-z0-9 _.\-]{4}")
RIFFS = (b"RIFF", b"RIFX", b"RF64", b"BW64")


@dataclass(frozen=True)
class Extent:
    """Bytes of audio in a file.

    Attributes:
        container: its name in messages.
        stated: by the header; None where the header leaves it open.
        held: from where the audio begins to the end of the file.
        beyond: behind the stated audio and behind every chunk that follows it.
        again: what is beyond begins as a file of this container does.
    """

    container: str
    stated: int | None
    held: int
    beyond: int = 0
    again: bool = False


def defect_of(path: Path, *, frames: int = 0, rate: int = 0, search: bool = False) -> Defect | None:
    """Return how a file's headers and its size disagree; None where they agree or state nothing.

    Args:
        path: an audio file.
        frames: samples per channel as the decoder reads the header; 0 where it reads none.
        rate: samples per second.
        search: look through all of a FLAC file for a second one behind it.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = _behind_id3(file)
            magic = _read(file, start, 4)
            if reader := SIZED.get(magic):
                extent = reader(file, start, size)
                return None if extent is None else _compare(path, extent, frames, rate)
            if magic == b"OggS":
                return _ogg(path, file, start, size)
            if magic == b"fLaC":
                return _flac(path, file, start, size, search=search)
            if mp3_frame(magic):
                return _mp3(path, file, frames, rate)
    except (
        OSError,
        ValueError,
        struct.error,
        IndexError,
    ):  # cut inside a header: nothing is stated
        return None
    return None


def _compare(path: Path, extent: Extent, frames: int, rate: int) -> Defect | None:
    header, stated, held = f"{extent.container} header", extent.stated, extent.held
    if stated is None:
        return None
    if stated > held:
        return "truncated", f"holds {held:,} of the {stated:,} bytes that its {header} states"
    if not stated and extent.beyond and not frames:
        repair = f"{_ffmpeg(path, 'repaired.flac')} repairs it"
        text = f"its {header} was never closed; {extent.beyond:,} bytes follow; {repair}"
        return "unfinished", text
    if stated and extent.again:
        name = extent.container
        return (
            "longer",
            f"a second {name} file of {extent.beyond:,} bytes follows the first; separate them",
        )
    if stated and extent.beyond > (SLACK * rate * stated / frames if frames else 0):
        ways = f"{_ffmpeg(path, 'whole.flac', '-ignore_length 1 ')} decodes all of it"
        return (
            "longer",
            f"its {header} states {stated:,} bytes of audio, {extent.beyond:,} more follow; {ways}",
        )
    return None


def _ffmpeg(path: Path, ending: str, options: str = "") -> str:
    """Return the command that writes what ffmpeg decodes of a file to another one beside it."""
    out = path.with_name(f"{path.stem}-{ending}")
    return f"ffmpeg {options}-i {shlex.quote(str(path))} {shlex.quote(str(out))}"


def _read(file: IO[bytes], at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _behind_id3(file: IO[bytes]) -> int:
    """Return where the file begins behind the ID3v2 tags that some programs put before it."""
    start = 0
    while (tag := _read(file, start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += id3_bytes(tag)
    return start


# ---- containers that state a size ----


def _riff(file: IO[bytes], start: int, size: int) -> Extent | None:
    magic = _read(file, start, 12)
    order = ">" if magic[:4] == b"RIFX" else "<"
    kind = magic[8:12] == b"WAVE" and ("WAV" if magic[:3] == b"RIF" else magic[:4].decode())
    if not kind:
        return None
    long = None  # the size in RF64's ds64 chunk
    for name, at, stated in _chunks(file, start + 12, size, f"{order}I", align=2):
        if name == b"ds64":
            (long,) = struct.unpack(f"{order}Q", _read(file, at + 8, 8))
        if name == b"data":
            if long is not None and stated == 0xFFFFFFFF:
                return _extent(file, kind, at, long, size, f"{order}I")
            open_ended = stated >= OPEN_ENDED and at + stated > size
            return _extent(file, kind, at, None if open_ended else stated, size, f"{order}I")
    return None


def _aiff(file: IO[bytes], start: int, size: int) -> Extent | None:
    if _read(file, start + 8, 3) != b"AIF":
        return None
    for name, at, stated in _chunks(file, start + 12, size, ">I", align=2):
        if name == b"SSND":  # eight bytes of offset and block size come first
            extent = _extent(file, "AIFF", at, stated, size, ">I")
            return Extent("AIFF", max(stated - 8, 0), max(extent.held - 8, 0), extent.beyond)
    return None


def _caf(file: IO[bytes], start: int, size: int) -> Extent | None:
    for name, at, stated in _chunks(file, start + 8, size, ">q", align=1):
        if (
            name == b"data"
        ):  # four bytes of edit count come first; libsndfile reads no open end (-1)
            body = max(stated, 4)
            extent = _extent(file, "CAF", at, body, size, ">q")
            return Extent("CAF", body - 4, max(extent.held - 4, 0), extent.beyond)
    return None


def _w64(file: IO[bytes], start: int, size: int) -> Extent | None:
    at = start + 40
    while at + 24 <= size:
        name, stated = _read(file, at, 16), struct.unpack("<Q", _read(file, at + 16, 8))[0]
        if name[:4] == b"data" and name[4:] == W64:
            return Extent("W64", max(stated - 24, 0), size - at - 24, _beyond_w64(file, at, size))
        if stated < 24:  # no chunk is smaller than its own head
            return None
        at += stated + 7 & ~7
    return None


def _beyond_w64(file: IO[bytes], at: int, size: int) -> int:
    while at + 24 <= size and _read(file, at + 4, 12) == W64:
        stated = struct.unpack("<Q", _read(file, at + 16, 8))[0]
        at += max(stated + 7 & ~7, 24)
        if stated < 24:
            break
    return max(size - at, 0)


def _au(file: IO[bytes], start: int, size: int) -> Extent | None:
    order = ">" if _read(file, start, 4) == b".snd" else "<"
    offset, stated = struct.unpack(f"{order}II", _read(file, start + 4, 8))
    held = max(size - start - offset, 0)
    if stated >= OPEN_ENDED and stated > held:
        return Extent("AU", None, held)
    return Extent("AU", stated, held, max(held - stated, 0))


def _nist(file: IO[bytes], start: int, size: int) -> Extent | None:
    head = _read(file, start, 4096).decode("latin-1")
    length = int(head.split()[1])
    fields = dict(re.findall(r"^(\w+) -\w+ (\S+)", head[:length], re.MULTILINE))
    if "," in fields.get("sample_coding", ""):  # compressed ("pcm,embedded-shorten-v2.00")
        return None
    count, width, channels = (
        int(fields.get(key, 1)) for key in ("sample_count", "sample_n_bytes", "channel_count")
    )
    held = max(size - start - length, 0)
    stated = count * width * channels
    return Extent("NIST", stated, held, max(held - stated, 0))


SIZED: dict[bytes, Callable[[IO[bytes], int, int], Extent | None]] = {
    **dict.fromkeys(RIFFS, _riff),
    b"FORM": _aiff,
    b"caff": _caf,
    b"riff": _w64,
    b".snd": _au,
    b"dns.": _au,
    b"NIST": _nist,
}


def _chunks(
    file: IO[bytes], at: int, size: int, kind: str, *, align: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, place of its content, stated bytes) of the chunks from `at` on."""
    head = 4 + struct.calcsize(kind)
    while at + head <= size:
        raw = _read(file, at, head)
        name, (stated,) = raw[:4], struct.unpack(kind, raw[4:])
        if not CHUNK_NAME.fullmatch(name) or name in RIFFS:
            return
        yield name, at + head, stated
        at += head + max(stated, 0)
        at += -at % align


def _extent(
    file: IO[bytes], container: str, at: int, stated: int | None, size: int, kind: str
) -> Extent:
    """Return the extent of the chunk whose content is at `at`; further chunks are not beyond it."""
    if stated is None:
        return Extent(container, None, size - at)
    end = at + stated
    align = 1 if kind == ">q" else 2
    end += -end % align
    for _, place, length in _chunks(file, end, size, kind, align=align):
        if length < 0 or place + length > size:
            break
        end = place + length
        end += -end % align
    behind = _read(file, end, 10)
    if behind[:3] == b"ID3" and len(behind) == 10:
        end += id3_bytes(behind)
    return Extent(container, stated, size - at, max(size - end, 0), behind[:4] in RIFFS)


# ---- streams ----


def _flac(path: Path, file: IO[bytes], start: int, size: int, *, search: bool) -> Defect | None:
    info = _read(file, start, 42)
    samples = (info[21] & 0x0F) << 32 | int.from_bytes(info[22:26])
    if not samples:
        return (
            "unfinished",
            f"its FLAC header states no length; {_ffmpeg(path, 'repaired.flac')} repairs it",
        )
    if samples > size * DENSEST:
        return (
            "truncated",
            f"its FLAC header states {samples:,} samples, more than {size:,} bytes can hold",
        )
    if search and (again := _find(file, info[:8], start + 8)) > 0:
        return _second("FLAC", path, size - again)
    return None


def _find(file: IO[bytes], pattern: bytes, start: int) -> int:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(pattern, start)


def _second(container: str, path: Path, count: int) -> Defect:
    text = f"a second {container} stream of {count:,} bytes follows, which no decoder here reads"
    return "longer", f"{text}; {_ffmpeg(path, 'whole.flac')} decodes all of it"


def _ogg(path: Path, file: IO[bytes], start: int, size: int) -> Defect | None:
    """Walk the pages: the last one is marked (RFC 3533), and nothing begins behind it."""
    at, last = start, False
    while at < size:
        page = _read(file, at, 27)
        if page[:4] != b"OggS":
            break
        if last and page[5] & 2:
            return _second("Ogg", path, size - at)
        table = file.read(page[26])
        end = at + 27 + page[26] + sum(table)
        if end > size or len(table) < page[26]:
            return "truncated", f"ends inside an Ogg page: {end - size:,} bytes of it are missing"
        at, last = end, bool(page[5] & 4)
    return None if last else ("truncated", "lacks the page that ends an Ogg stream")


def _mp3(path: Path, file: IO[bytes], frames: int, rate: int) -> Defect | None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        stated, counted, samples, missing = count_frames(content)
    repair = _ffmpeg(path, "whole.flac")
    if not samples:
        return None
    if stated is not None:
        if counted < stated - (0 if missing else 1):  # some encoders count the header's frame, too
            return (
                "truncated",
                f"holds {counted:,} of the {stated:,} frames that its MP3 header states",
            )
        if counted > stated + 1 + SLACK * rate * counted / samples:
            more = f"its MP3 header states {stated:,} frames, it holds {counted:,}"
            return "longer", f"{more}; {repair} decodes all of it"
        return None
    held = samples / rate if rate else 0.0
    if frames and abs(held - frames / rate) > SLACK:
        kind = "longer" if held > frames / rate else "truncated"
        text = f"{frames / rate:.2f} s is an estimate, its frames last {held:.2f} s"
        return kind, f"no header states its length: {text}; {repair} decodes all of it"
    return ("truncated", f"ends inside a frame: {missing} bytes are missing") if missing else None
