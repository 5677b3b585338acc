"""Time-aligned labels: segments by utterance, from a CTM file or from Praat's TextGrid files.

Segments that have no duration, and files that are no TextGrid or lack the tier, are left out,
counted and logged once. An empty label is no segment.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.text import read_number

LOGGER = logging.getLogger(__name__)
SUFFIX = ".textgrid"
TIER = "phones"
# Praat reads its text files so: strings, flags and numbers that stand on their own are values, and
# everything else is a comment. Long and short form hold the same values.
VALUE = re.compile(
    r'"(?P<string>(?:[^"]|"")*)"|(?P<flag><\w+>)|!.*'
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
)


@dataclass(frozen=True)
class Alignment:
    """Turns by utterance id.

    Attributes:
        short_names: By utterance id, the file's name without its folders, where no other file has
            it.
    """

    segments: dict[str, list[Turn]] = field(default_factory=dict)
    short_names: dict[str, str] = field(default_factory=dict)

    def of(self, *names: str) -> tuple[Turn, ...] | None:
        """Return the turns of the first of the names that is there, in order; None if none is."""
        for name in names:
            turns = self.segments.get(name, self.segments.get(self._names.get(name, "")))
            if turns is not None:
                return tuple(sorted(turns))
        return None

    def __contains__(self, name: str) -> bool:
        return name in self.segments or name in self._names

    @cached_property
    def _names(self) -> dict[str, str]:
        return {short: name for name, short in self.short_names.items()}


def read_alignment(path: Path, tier: str = TIER) -> Alignment:
    """Return the alignment in a CTM file, a TextGrid file, or a folder of TextGrid files.

    Args:
        path: A CTM file ("utterance channel start duration label" lines, as Kaldi writes them), or
            TextGrid files named by utterance id, also in sub-folders. UTF-8 or UTF-16.
        tier: Name of the interval tiers to read; "speaker - phones" (MFA's) are "phones", too.

    Raises:
        CorpusError: If the file cannot be read, a line of a CTM is none, or no segment is left.
    """
    losses = _Losses(path)
    if path.is_dir() or path.suffix.lower() == SUFFIX:
        alignment = _read_textgrids(path, tier, losses)
    else:
        alignment = Alignment(_read_ctm(path, losses))
    losses.log()
    if not any(alignment.segments.values()):
        raise CorpusError(f"--alignment {path}: holds no segment{losses.first()}")
    return alignment


def read_rttm(path: Path) -> Alignment:
    """Return who speaks when, by recording, from the SPEAKER lines of a NIST RTTM file.

    Raises:
        CorpusError: If the file cannot be read, a line is none or ends before it starts, or no
            SPEAKER line is left.
    """
    losses, alignment = _Losses(path, "--rttm"), Alignment()
    for number, line in enumerate(_read_text(path, "--rttm").split("\n"), start=1):
        cells = line.split()
        if not cells or line.startswith(";"):
            continue
        if cells[0] != "SPEAKER":
            losses.add("lines that are not SPEAKER lines", f"line {number}")
            continue
        where = f"--rttm {path}, line {number}"
        try:
            _, name, _, start, duration, _, _, speaker = cells[:8]
            begin, seconds = read_number(start), read_number(duration)
        except ValueError:
            raise CorpusError(
                f"{where}: '{line.strip()[:80]}'; expected 'SPEAKER recording channel start "
                "duration <NA> <NA> speaker'"
            ) from None
        if seconds < 0:
            raise CorpusError(f"{where}: the turn ends before it starts ({duration} s)")
        if losses.usable(begin, begin + seconds, f"line {number}"):
            turns = alignment.segments.setdefault(name, [])
            turns.append(Turn(begin, round(begin + seconds, 6), speaker))
    losses.log()
    if not alignment.segments:
        raise CorpusError(f"--rttm {path}: holds no turn of a speaker{losses.first()}")
    return alignment


@dataclass
class _Losses:
    """Counts of what an alignment cannot use, by reason, with the first place of each."""

    path: Path
    option: str = "--alignment"
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        self.places.setdefault(reason, place)

    def log(self) -> None:
        for reason, count in self.counts.items():
            LOGGER.warning(
                "%s %s: left out %d %s; the first is %s",
                self.option,
                self.path,
                count,
                reason,
                self.places[reason],
            )

    def first(self) -> str:
        return "".join(f"; {reason}, the first is {place}" for reason, place in self.places.items())

    def usable(self, start: float, end: float, place: str) -> bool:
        """Return whether a segment has a place in time; count it otherwise."""
        if 0 <= start < end < math.inf:
            return True
        self.add(
            "segments without a positive duration, or with a negative start",
            f"{place} ({start:g} to {end:g} s)",
        )
        return False


def _read_ctm(file: Path, losses: _Losses) -> dict[str, list[Turn]]:
    segments: dict[str, list[Turn]] = {}
    channels: dict[str, str] = {}
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        cells = line.split()
        if not cells or line.startswith(";;"):
            continue
        try:
            name, channel, begin, duration, label = cells[:5]
            start = read_number(begin)
            end = start + read_number(duration)
        except ValueError:
            raise CorpusError(
                f"--alignment {file}, line {number}: '{line.strip()[:80]}' is not "
                "'utterance channel start duration label'"
            ) from None
        if channels.setdefault(name, channel) != channel:
            raise CorpusError(
                f"--alignment {file}, line {number}: '{name}' has channels {channels[name]} and "
                f"{channel}; expected one; give each channel an utterance of its own"
            )
        if losses.usable(start, end, f"line {number}"):
            segments.setdefault(name, []).append(Turn(start, end, label))
    return segments


def _read_textgrids(path: Path, tier: str, losses: _Losses) -> Alignment:
    files = [path] if path.is_file() else sorted(_textgrids(path))
    if not files:
        there = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
        raise CorpusError(
            f"--alignment {path}: expected .TextGrid files named by utterance id in it, found "
            f"{there}"
        )
    stems = Counter(file.stem for file in files)
    alignment = Alignment()
    for file in files:
        try:
            tiers = list(parse_textgrid(_read_text(file, latin=True)))
        except (CorpusError, ValueError) as error:
            losses.add("files that cannot be read as TextGrid", f"{file.name} ({error})")
            continue
        wanted = [t for t in tiers if t[0] == tier or t[0].endswith(f" - {tier}")]
        if not wanted:
            names = ", ".join(name for name, _ in tiers) or "none"
            losses.add(f"files without an interval tier '{tier}'", f"{file.name} (tiers: {names})")
            continue
        name = "-".join(
            file.relative_to(path if path.is_dir() else path.parent).with_suffix("").parts
        )
        if name != file.stem and stems[file.stem] == 1:
            alignment.short_names[name] = file.stem
        alignment.segments[name] = [
            turn
            for _, turns in wanted
            for turn in turns
            if turn.label and losses.usable(turn.start, turn.end, f"'{turn.label}' in {file.name}")
        ]
    return alignment


def _textgrids(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix.lower() == SUFFIX and not file.name.startswith(".") and file.is_file():
            yield file


def parse_textgrid(text: str) -> Iterator[tuple[str, list[Turn]]]:
    """Yield (name, segments) of each interval tier of a TextGrid, in long or short form.

    Raises:
        ValueError: If `text` is no TextGrid, or ends too early.
    """
    values = iter(_values(text))
    try:
        kind, contents = next(values), next(values)
        if not str(kind).startswith("ooTextFile") or contents != "TextGrid":
            raise ValueError(
                "expected 'File type = \"ooTextFile\"' and 'Object class = \"TextGrid\"', "
                f"found '{text.strip()[:40]}'; save it in Praat as a text file"
            )
        _number(values), _number(values)  # the grid's start and end
        tiers = _number(values) if next(values) == "<exists>" else 0
        for _ in range(int(tiers)):
            kind, name = next(values), str(next(values)).strip()
            _number(values), _number(values)  # the tier's start and end
            count = int(_number(values))
            if kind == "IntervalTier":
                yield name, [_interval(values) for _ in range(count)]
            else:  # a TextTier's points: a time and a label
                for _ in range(2 * count):
                    next(values)
    except StopIteration:
        raise ValueError("ends before its last tier does") from None


def _interval(values: Iterator[float | str]) -> Turn:
    return Turn(_number(values), _number(values), " ".join(str(next(values)).split()))


def _number(values: Iterator[float | str]) -> float:
    value = next(values)
    if not isinstance(value, float) or not math.isfinite(value):
        # a fault of the text
        raise ValueError(f"expected a number, found '{value}'")
    return value


def _values(text: str) -> Iterator[float | str]:
    for match in VALUE.finditer(text):
        if match["string"] is not None:
            yield match["string"].replace('""', '"')
        elif match["number"] is not None:
            yield float(match["number"])
        elif match["flag"] is not None:
            yield match["flag"]


def _read_text(file: Path, option: str = "--alignment", *, latin: bool = False) -> str:
    """Return the text of a UTF-8 or UTF-16 file, with or without a byte-order mark.

    Args:
        file: The file.
        option: The option that names it, for messages.
        latin: Read what is neither as ISO Latin-1, as Praat does by default.
    """
    try:
        raw = file.read_bytes()
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return raw.decode("utf-16")
        if 0 in raw[:2]:  # Latin letters in UTF-16 have one zero byte each
            return raw.decode("utf-16-be" if raw[0] == 0 else "utf-16-le")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            if latin:
                return raw.decode("latin-1")
            raise
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{option} {file}: cannot be read ({error})") from None
