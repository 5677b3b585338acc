"""Turns of speakers as text, as an RTTM file, and with each speaker's overlapping turns merged."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from mt4ssl_bench.data.cut import Turn

BETWEEN = "; "  # of the turns of a text


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
