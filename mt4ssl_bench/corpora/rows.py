"""A manifest's utterances: read from a TSV and checked against their audio files, all before
anything is written.
"""

import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mt4ssl_bench.console import progress
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.containers import Defect, defect_of
from mt4ssl_bench.data.cut import is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.data.file_state import content_of, on_disk, state_of
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # a split's name is its file's
DURATION_SLACK = 0.1  # seconds by which a manifest may misstate a duration
SILENCE = "<silence>"  # the text of an utterance in which nobody speaks
WINDOW = 4096  # files looked at together: a pool's queue must not hold a million of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One utterance of a manifest, checked against its audio file."""

    id: str
    path: Path
    speaker: str = ""
    language: str = ""
    text: str = ""
    phones: str = ""
    split: str = ""
    sid_split: str = ""
    stated: float | None = None  # seconds that the manifest says the file lasts
    start: float = 0.0  # seconds into the file, for an utterance that is part of it
    seconds: float | None = None  # its length; None takes the file from `start` to its end
    samples: int = 0  # of the whole file, as are rate and channels
    rate: int = audio.RATE
    channels: int = 1
    content: str = ""  # digest of the file's bytes, and the place of the utterance in it
    silent: bool = False  # nobody speaks: text and phones are empty, which is no gap
    unusable: tuple[str, str] | None = None  # (reason, details): left out and counted
    bytes: int = 0  # of the file, noted so that a change shows, as is the time
    modified: int = 0  # nanoseconds
    defects: tuple[Defect, ...] = ()  # of the file's length

    @property
    def duration(self) -> float:
        """Seconds of the utterance."""
        return self.samples / self.rate if self.seconds is None else self.seconds


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


def probe_files(rows: Iterable[Row], *, skip: list[str] | None, total: int = 0) -> Iterator[Row]:
    """Yield rows with what their files say.

    An unreadable one raises CorpusError, or is noted in `skip`.
    """
    rows = iter(rows)
    look = partial(_look, look_at=lru_cache(256)(_look_at))  # a file's parts follow each other
    with progress("checking audio", total) as advance, ThreadPoolExecutor() as pool:
        while window := list(itertools.islice(rows, WINDOW)):
            for found in pool.map(look, window):
                advance(1, "")
                if isinstance(found, Row):
                    yield found
                elif skip is None:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise found
                else:
                    LOGGER.warning("left out: %s", found)
                    skip.append(str(found))


@dataclass(frozen=True)
class Looked:
    """Facts of one audio file, by the names that they have in Row."""

    path: Path
    samples: int
    rate: int
    channels: int
    content: str
    bytes: int
    modified: int
    defects: tuple[Defect, ...]


def _look_at(path: Path) -> Looked:
    path = on_disk(path)
    samples, rate, channels = audio.probe(path)
    size, modified = state_of(path)  # before the digest, so that a change during it shows later
    content = content_of(path)
    defect = defect_of(path, frames=samples, rate=rate, search=True)
    return Looked(
        path, samples, rate, channels, content, size, modified, (defect,) if defect else ()
    )


def _look(row: Row, look_at: Callable[[Path], Looked]) -> Row | CorpusError:
    try:
        file = look_at(row.path)
    except (CorpusError, OSError) as error:
        return CorpusError(f"utterance '{row.id}': {error}")
    lasts = file.samples / file.rate
    why = "".join(f"; {text}" for _, text in file.defects)
    # as they stand, the conditions refuse NaN too
    if row.stated is not None and not abs(lasts - row.stated) <= DURATION_SLACK:
        return CorpusError(
            f"utterance '{row.id}' lasts {lasts:.2f} s, not {row.stated:.2f} s as stated "
            f"({file.path}){why}"
        )
    place = ""
    if row.start and row.seconds is None:
        row = replace(row, seconds=lasts - row.start)
    if row.seconds is not None:
        unusable = misplaced(row.start, row.seconds, lasts, f"a file of {lasts:.2f} s{why}")
        if row.start < 0:
            row = replace(row, start=0.0, seconds=row.start + row.seconds)
        row = replace(row, unusable=unusable)
        place = f"@{row.start:.3f}+{row.seconds:.3f}"
    facts = {field.name: getattr(file, field.name) for field in fields(file)}
    return replace(row, **facts | {"content": file.content + place})


def misplaced(start: float, seconds: float, lasts: float, whole: str) -> tuple[str, str] | None:
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


def row_of(cut: Any) -> Row:  # noqa: ANN401 - lhotse ships no types
    """Return a cut as the row that it was made from."""
    recording = cut.recording
    whole = abs(cut.duration - recording.duration) < 1 / recording.sampling_rate
    content = str((cut.custom or {}).get("content", ""))
    if content and not whole:  # a part of its file, perhaps a piece of what was prepared as one
        content = f"{content.partition('@')[0]}@{cut.start:.3f}+{cut.duration:.3f}"
    return Row(
        id=cut.id,
        path=Path(str(recording.sources[0].source))
        if recording.sources[0].type == "file"
        else Path(),
        speaker=speaker_of(cut),
        text=text_of(cut),
        phones=phones_of(cut),
        start=cut.start,
        seconds=None if whole else cut.duration,
        samples=recording.num_samples,
        rate=recording.sampling_rate,
        channels=recording.num_channels,
        content=content,
        silent=is_silent(cut),
    )
