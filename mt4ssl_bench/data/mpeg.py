"""MPEG audio frames and ID3 tags: what a walk over their headers counts."""

import mmap

BITRATES = {  # (MPEG-1?, layer) -> kbit/s by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def mp3_frame(header: bytes) -> tuple[int, int, int] | None:
    """Return (bytes, samples, Hz) of the MPEG frame with this header of four bytes, or None."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or index in {0, 15} or rate == 3:
        return None
    first = version == 3
    hertz, bits = RATES[version][rate], BITRATES[first, layer][index] * 1000
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, 384, hertz
    samples = 1152 if first or layer == 2 else 576
    return samples // 8 * bits // hertz + padding, samples, hertz


def id3_bytes(tag: bytes) -> int:
    """Return the bytes of an ID3v2 tag from its first ten: its size has seven bits in each byte."""
    footer = 10 if tag[5] & 0x10 else 0
    return 10 + footer + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])


def count_frames(content: mmap.mmap) -> tuple[int | None, int, int, int]:
    """Return the frames of an MP3 file.

    Returns:
        How many a Xing or Info header states (None without one), how many are whole, their samples,
        and the bytes that the last one lacks.
    """
    at, size = 0, len(content)
    stated: int | None = None
    counted = samples = missing = 0
    while at < size:
        frame = mp3_frame(content[at : at + 4])
        if frame is None:
            at = _next_frame(content, at)
            continue
        length, each, _ = frame
        if not counted and stated is None:
            head = content[at : at + min(length, 64)]
            mark = max(head.find(b"Xing"), head.find(b"Info"))
            if mark > 0 and head[mark + 7] & 1:
                stated = int.from_bytes(head[mark + 8 : mark + 12])
                at += length
                continue
        if at + length > size:
            missing = at + length - size
            break
        at, counted, samples = at + length, counted + 1, samples + each
    return stated, counted, samples, missing


def _next_frame(content: mmap.mmap, at: int) -> int:
    """Return where the next two frames in a row begin behind a tag or anything else, or the end."""
    if content[at : at + 3] == b"ID3":
        return at + id3_bytes(content[at : at + 10])
    while (at := content.find(b"\xff", at + 1)) >= 0:
        frame = mp3_frame(content[at : at + 4])
        if frame and mp3_frame(content[at + frame[0] : at + frame[0] + 4]):
            return at
    return len(content)
