"""Turns of speakers as text, as an RTTM file, as frames, and with overlapping ones merged.

Shapes: T frames, V speakers.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.cut import Turn

BETWEEN = "; "  # of the turns of a text
Frames = npt.NDArray[np.float32]  # (T, V): 1 where a speaker is active


def merged(turns: Iterable[Turn]) -> list[Turn]:
    """Return turns in the order of their starts, those of one speaker that overlap or touch as one.

    Who speaks twice at a time would be counted twice.
    """
    result: list[Turn] = []
    for turn in sorted(turns, key=attrgetter("label", "start")):
        last = result[-1] if result else None
        if last and last.label == turn.label and turn.start <= last.end:
            result[-1] = last._replace(end=max(last.end, turn.end))
        else:
            result.append(turn)
    return sorted(result)


def to_text(turns: Iterable[Turn]) -> str:
    """Return turns as "0.320-3.050 anna; 2.100-4.000 ben", "" for none; in milliseconds."""
    return BETWEEN.join(
        f"{turn.start:.3f}-{turn.end:.3f} {turn.label.replace(BETWEEN, ', ')}" for turn in turns
    )


def from_text(text: str) -> list[Turn]:
    """Return the turns of to_text().

    Raises:
        ValueError: If `text` is none.
    """
    turns = []
    for part in text.split(BETWEEN) if text else ():
        place, _, label = part.partition(" ")
        start, _, end = place.partition("-")
        turns.append(Turn(float(start), float(end), label))
    return turns


def to_rttm(recordings: Mapping[str, Sequence[Turn]]) -> str:
    """Return the turns of recordings as SPEAKER lines of a NIST RTTM file."""
    return "".join(
        f"SPEAKER {'_'.join(name.split())} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA>"
        f" {'_'.join(turn.label.split())} <NA> <NA>\n"
        for name, turns in recordings.items()
        for turn in turns
    )


def to_frames(turns: Iterable[Turn], shape: tuple[int, int], stride: int) -> Frames:
    """Return who is active in each frame (T, V), speakers in the order of their names.

    Times are rounded to frames as s3prl does it: a half to the even number.

    Args:
        turns: In seconds.
        shape: (T, V), with columns for all speakers.
        stride: Samples from frame to frame.
    """
    turns = list(turns)
    names = sorted({turn.label for turn in turns})
    frames = np.zeros(shape, dtype=np.float32)
    for turn in turns:
        start, end = (round(time * RATE / stride) for time in (turn.start, turn.end))
        frames[start:end, names.index(turn.label)] = 1
    return frames


def from_frames(active: Frames, stride: int) -> list[Turn]:
    """Return the turns of frames (T, V), speakers "1", "2", ...

    Starts and durations are rounded to 0.01 s, as in s3prl's RTTM files.
    """
    step = stride / RATE
    steps = np.diff(active, axis=0, prepend=0, append=0)  # 1 where a turn starts, -1 where it ends
    return sorted(
        Turn(
            round(start * step, 2), round(start * step, 2) + round((end - start) * step, 2), str(v)
        )
        for v, column in enumerate(steps.T, start=1)
        for start, end in zip(*map(np.flatnonzero, (column > 0, column < 0)), strict=True)
    )
