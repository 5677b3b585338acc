"""Rows, the utterances of a corpus before it is written, checked against their audio files."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from mt4ssl_bench.console import progress
from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.containers import Defect, defect_of
from mt4ssl_bench.data.cut import (
    SLOTS,
    SPOKEN,
    Cut,
    Turn,
    is_silent,
    labels_of,
    others_of,
    phones_of,
    speaker_of,
    stored_turns,
    text_of,
)
from mt4ssl_bench.data.file_state import content_of, on_disk, state_of
from mt4ssl_bench.errors import CorpusError

SPLIT_NAME = re.compile(r"\w[\w.-]*")  # a split's name is its file's; so is a list's
DURATION_SLACK = 0.1  # seconds by which a manifest may misstate a duration
SILENCE = "<silence>"  # the text of an utterance in which nobody speaks
AHEAD = 4096  # rows probed together: a pool's queue must not hold a million of them
ATTRIBUTES = ("text", "phones", "speaker")  # the fields that a row has of its own

Unusable = tuple[str, str]  # a reason of exclusions.py, and the details

NO_LABELS: Mapping[str, str] = {}  # shared by the million rows that have none
NO_TURNS: Mapping[str, tuple[Turn, ...]] = {}
NO_OTHERS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class AudioFile:
    """Facts of one audio file."""

    path: Path
    samples: int
    rate: int
    channels: int
    content: str  # digest of its bytes
    bytes: int
    modified: int  # nanoseconds
    defects: tuple[Defect, ...] = ()  # of its length


NO_FILES: Mapping[str, AudioFile] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One utterance of a corpus, with what is known of its audio file once that was probed.

    Attributes:
        labels: Labels of the utterance by name: emotion, intent, fold, ...; the label "slots" has
            one value for each word of the text.
        turns: By tier ("speakers", "phones", "words"), in seconds from the utterance's start. A
            tier that is there and empty says that nothing happens.
        others: Other audio of the same length by name, for example "clean".
        other_files: What was found of `others`.
    """

    id: str
    path: Path
    speaker: str = ""
    language: str = ""
    text: str = ""
    phones: str = ""
    split: str = ""
    sid_split: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    turns: Mapping[str, tuple[Turn, ...]] = field(default_factory=lambda: NO_TURNS)
    others: Mapping[str, Path] = field(default_factory=lambda: NO_OTHERS)
    stated: float | None = None  # seconds that the manifest says the file lasts
    start: float = 0.0  # seconds into the file, for an utterance that is part of it
    seconds: float | None = None  # its length; None takes the file from `start` to its end
    samples: int = 0  # of the whole file, as are rate and channels
    rate: int = audio.RATE
    channels: int = 1
    content: str = ""  # digest of the file's bytes, and the place of the utterance in it
    silent: bool = False  # nobody speaks: text and phones are empty, which is no gap
    unusable: Unusable | None = None  # why it is left out, or refused
    bytes: int = 0  # of the file, noted so that a change shows, as is the time
    modified: int = 0  # nanoseconds
    defects: tuple[Defect, ...] = ()  # of the file's length
    other_files: Mapping[str, AudioFile] = field(default_factory=lambda: NO_FILES)

    @property
    def duration(self) -> float:
        """Seconds of the utterance."""
        return self.samples / self.rate if self.seconds is None else self.seconds

    def has(self, name: str) -> bool:
        """Return whether the row has a field of CorpusInfo: "text", a label, "turns:<tier>", ..."""
        if name in ATTRIBUTES:
            return bool(getattr(self, name))
        kind, _, part = name.partition(":")
        if kind == "turns":
            return part in self.turns
        return part in self.others if kind == "other" else bool(self.labels.get(name))

    def lacks(self, name: str) -> bool:
        """Return whether the row has a gap: a field is missing, and not because nobody speaks."""
        unspoken = self.silent and (name in SPOKEN or name.startswith("turns:"))
        return not self.has(name) and not unspoken


def field_names(rows: Iterable[Row]) -> list[str]:
    """Return the names of all fields that some of the rows have, in a fixed order."""
    found: set[str] = set()
    for row in rows:
        found.update(row.labels)
        found.update(f"turns:{tier}" for tier in row.turns)
        found.update(f"other:{name}" for name in row.others)
        found.update(name for name in ATTRIBUTES if getattr(row, name))
    return sorted(found)


def is_quoted(cell: str) -> bool:
    """Return whether a cell has quotation marks around it."""
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def refuse_duplicates(rows: Sequence[Row], source: Path) -> None:
    """Raise CorpusError when two rows have one id."""
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise CorpusError(
            f"{source}: {len(twice)} ids stand more than once, the first is '{twice[0]}'"
        )


def probe(rows: Iterable[Row], total: int = 0) -> Iterator[Row]:
    """Yield rows with what their files say; one whose files cannot be used is unusable."""
    rows = iter(rows)
    look = partial(_look, look_at=lru_cache(256)(_look_at))  # a file's parts follow each other
    with progress("checking audio", total) as advance, ThreadPoolExecutor() as pool:
        while ahead := list(itertools.islice(rows, AHEAD)):
            for row in pool.map(look, ahead):
                advance(1, "")
                yield row


def _look_at(path: Path) -> AudioFile:
    path = on_disk(path)
    samples, rate, channels = audio_headers.probe(path)
    size, modified = state_of(path)  # before the digest, so that a change during it shows later
    content = content_of(path)
    defect = defect_of(path, frames=samples, rate=rate, search=True)
    defects = (defect,) if defect else ()
    return AudioFile(path, samples, rate, channels, content, size, modified, defects)


def _look(row: Row, look_at: Callable[[Path], AudioFile]) -> Row:
    try:
        file = look_at(row.path)
        others = {name: look_at(path) for name, path in row.others.items()}
    except (CorpusError, OSError) as error:
        reason = "missing" if str(error).endswith("no such file") else "unreadable"
        return replace(row, unusable=(reason, str(error)))
    lasts = file.samples / file.rate
    why = "".join(f"; {text}" for _, text in file.defects)
    # as it stands, the condition refuses NaN too
    if row.stated is not None and not abs(lasts - row.stated) <= DURATION_SLACK:
        states = f"lasts {lasts:.2f} s, not {row.stated:.2f} s as stated ({file.path}){why}"
        return replace(row, unusable=("duration", states))
    place, unusable, start, seconds = "", None, row.start, row.seconds
    if start and seconds is None:
        seconds = lasts - start
    if seconds is not None:
        unusable = misplaced(start, seconds, lasts, f"a file of {lasts:.2f} s{why}")
        if start < 0:
            start, seconds = 0.0, start + seconds
        place = f"@{start:.3f}+{seconds:.3f}"
    probed = replace(
        row,
        path=file.path,
        samples=file.samples,
        rate=file.rate,
        channels=file.channels,
        content=file.content + place,
        bytes=file.bytes,
        modified=file.modified,
        defects=file.defects,
        other_files=others or NO_FILES,
        start=start,
        seconds=seconds,
    )
    probed = cut_off(probed)
    unusable = unusable or unequal(probed) or out_of_place(probed) or miscounted(probed)
    return replace(probed, unusable=unusable)


def unequal(row: Row) -> Unusable | None:
    """Return which other audio of a row has another length or sample rate than its own."""
    own = f"{row.samples:,} samples at {row.rate:,} Hz"
    for name, file in row.other_files.items():
        other = f"{file.samples:,} samples at {file.rate:,} Hz"
        if other != own:
            return "other", f"{name} has {other}, its own audio {own} ({file.path})"
    return None


def cut_off(row: Row) -> Row:
    """Return the row with turns of speakers that reach beyond its end cut off there.

    RTTM files often say so of the last turn; one that begins beyond the end is out of place.
    """
    lasts, turns = row.duration, row.turns.get("speakers", ())
    if not any(turn.start < lasts < turn.end - DURATION_SLACK for turn in turns):
        return row
    ended = tuple(t._replace(end=min(t.end, lasts)) if t.start < lasts else t for t in turns)
    return replace(row, turns={**row.turns, "speakers": ended})


def out_of_place(row: Row) -> Unusable | None:
    """Return which turn of a row has no duration or does not lie within the utterance."""
    for tier, turns in row.turns.items():
        for turn in turns:
            place = f"{tier} '{turn.label}', {turn.start:.2f} to {turn.end:.2f} s"
            if not turn.start < turn.end:  # NaN, too
                return "turn_order", place
            if turn.start < -DURATION_SLACK or turn.end > row.duration + DURATION_SLACK:
                return "turn_outside", f"{place} of {row.duration:.2f} s"
    return None


def miscounted(row: Row) -> Unusable | None:
    """Return how many slots and words a row has, if they are not equally many."""
    slots, words = len(row.labels.get(SLOTS, "").split()), len(row.text.split())
    if SLOTS not in row.labels or slots == words:
        return None
    return SLOTS, f"{slots} slots for {words} words"


def misplaced(start: float, seconds: float, lasts: float, whole: str) -> Unusable | None:
    """Return why a segment of `whole`, which lasts `lasts` seconds, cannot be used (see Row).

    Args:
        start: Seconds from the beginning of the whole.
        seconds: Length of the segment.
        lasts: Length of the whole.
        whole: The name of the whole, for the message.
    """
    end = start + seconds
    place = f"{start:.2f} to {end:.2f} s of {whole}"
    if not 0 < seconds < math.inf:  # NaN, too
        return "no_duration", place
    inside = start >= -DURATION_SLACK and end <= lasts + DURATION_SLACK
    return None if inside else ("outside", place)


def one_line(value: object) -> str:
    """Return a value in one line; nothing for None, which is how a missing one is said."""
    return "" if value is None else " ".join(str(value).split())


def with_single_spaces(row: Row) -> Row:
    """Return the row with its text and phones as hypotheses are: words with one space between them.

    A text of white space is an empty one; a row that has a text is not silent.
    """
    text, phones = one_line(row.text), one_line(row.phones)
    silent = row.silent and not text
    if (text, phones, silent) == (row.text, row.phones, row.silent):
        return row
    return replace(row, text=text, phones=phones, silent=silent)


def row_of(cut: Cut) -> Row:
    """Return a cut as the row that it was made from."""
    recording = cut.recording
    whole = abs(cut.duration - recording.duration) < 1 / recording.sampling_rate
    content = str((cut.custom or {}).get("content", ""))
    if content and not whole:  # a part of its file, perhaps a piece of what was prepared as one
        content = f"{content.partition('@')[0]}@{cut.start:.3f}+{cut.duration:.3f}"
    source = recording.sources[0]
    turns = {
        tier: tuple(Turn(start - cut.start, end - cut.start, label) for start, end, label in turns)
        for tier, turns in stored_turns(cut).items()
    }
    return Row(
        id=cut.id,
        path=Path(str(source.source)) if source.type == "file" else Path(),
        speaker=speaker_of(cut),
        text=text_of(cut),
        phones=phones_of(cut),
        labels=labels_of(cut) or NO_LABELS,
        turns=turns or NO_TURNS,
        others=others_of(cut) or NO_OTHERS,
        start=cut.start,
        seconds=None if whole else cut.duration,
        samples=recording.num_samples,
        rate=recording.sampling_rate,
        channels=recording.num_channels,
        content=content,
        silent=is_silent(cut),
    )
