"""A manifest's utterances: read from a TSV and checked against their audio files, all before anything is written."""

import itertools
import logging
import math
import re
import sys
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
from mt4ssl_bench.data.file_state import content_of, on_disk, state_of
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
REQUIRED = ("id", "path")
OPTIONAL = ("duration_s", "speaker", "language", "text", "phones", "split", "sid_split")
REPEATED = ("speaker", "language", "split", "sid_split")
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # a split's name is its file's
DURATION_SLACK = 0.1  # seconds by which a manifest may misstate a duration
UNQUOTED = (
    "expected cells without quotation marks around them; write the table again without quoting "
    "(pandas: quoting=csv.QUOTE_NONE, R: quote=FALSE)"
)
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


def read_table(manifest: Path) -> list[Row]:
    """Return the rows of a TSV.

    A row with an empty cell is unusable: nothing tells whether its text is missing or nobody
    speaks, so that an utterance without speech has SILENCE as its text (or phones).

    Raises:
        CorpusError: If a line, id, path or duration cannot be used; the message names it.
    """
    header, lines = _read_cells(manifest)
    rows: list[Row] = []
    folder = manifest.resolve().parent
    wanted = [c for c in (*REQUIRED, *OPTIONAL) if c in header]
    for number, raw in lines:
        if len(raw) != len(header):
            raise CorpusError(
                f"{manifest}, line {number}: {len(header)} columns expected, as in the header, found {len(raw)}"
                + ("; is there a tab inside a text?" if len(raw) > len(header) else "")
            )
        cells = {column: value.strip() for column, value in zip(header, raw, strict=True)}
        if is_quoted(cells["path"]):
            raise CorpusError(
                f"{manifest}, line {number}: its cells are quoted ({cells['path']}); {UNQUOTED}"
            )
        empty = [column for column in wanted if not cells[column]]
        if {"id", "path"} & set(empty):
            raise CorpusError(
                f"{manifest}, line {number}: utterance '{cells['id']}' has an empty {empty[0]}"
            )
        for column in ("split", "sid_split"):
            if cells.get(column) and not SPLIT_NAME.fullmatch(cells[column]):
                raise CorpusError(
                    f"{manifest}, line {number}: '{cells[column]}' cannot name a split; letters, digits, _ . - can"
                )
        kept: dict[str, Any] = {c: cells[c] for c in wanted if c not in {"path", "duration_s"}}
        kept |= {
            c: sys.intern(kept[c]) for c in REPEATED if c in kept
        }  # one copy of each name, not a million
        kept |= {c: " ".join(kept[c].split()) for c in ("text", "phones") if c in kept}
        kept |= _silence(kept, f"{manifest}, line {number}: utterance '{cells['id']}'")
        if empty:
            kept["unusable"] = f"no_{empty[0]}", f"line {number}"
        kept["stated"] = _seconds(cells.get("duration_s", ""), cells["id"], manifest)
        rows.append(Row(**kept, path=folder / cells["path"]))
    if not rows:
        raise CorpusError(f"{manifest}: no utterance below its header")
    refuse_duplicates(rows, manifest)
    return rows


def _silence(cells: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the changes for an utterance that is marked as silent, in its text or its phones."""
    texts = {column: cells[column] for column in ("text", "phones") if column in cells}
    if SILENCE not in texts.values():
        return {}
    if set(texts.values()) - {SILENCE, ""}:
        raise CorpusError(
            f"{where} has {SILENCE} beside a text or phones; expected {SILENCE} in both"
        )
    return {**dict.fromkeys(texts, ""), "silent": True}


def _read_cells(manifest: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the header, and an iterator over the other lines with their numbers."""
    if not manifest.is_file():
        raise CorpusError(f"{manifest}: no such manifest")
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{manifest}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise CorpusError(
            f"{manifest}: not a text table (it holds zero bytes: UTF-16?); save it as UTF-8"
        )
    # split at newlines alone: splitlines() also splits at U+2028 and its like, which texts may hold
    lines = ((n, line.split("\t")) for n, line in enumerate(text.split("\n"), start=1) if line)
    header = [column.strip() for column in next(lines, (0, []))[1]]
    if any(is_quoted(column) for column in header):
        raise CorpusError(f"{manifest}: its header is quoted ({header[0]}); {UNQUOTED}")
    for column in REQUIRED:
        if column not in header:
            commas = (
                "its columns are parted by tabs, not commas; " if "," in "".join(header) else ""
            )
            raise CorpusError(
                f"{manifest}: no column '{column}'; {commas}{hint(column, header)}; expected {', '.join(REQUIRED)}"
            )
    twice = [column for column, count in Counter(header).items() if column and count > 1]
    if twice:
        raise CorpusError(f"{manifest}: column '{twice[0]}' is there twice; leave one out")
    unread = [column for column in header if column and column not in {*REQUIRED, *OPTIONAL}]
    if unread:
        LOGGER.info("%s: columns that are not read: %s", manifest, ", ".join(unread))
    return header, lines


def is_quoted(cell: str) -> bool:
    """Return whether a cell has quotation marks around it."""
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _seconds(stated: str, name: str, manifest: Path) -> float | None:
    try:
        return float(stated) if stated else None
    except ValueError:
        raise CorpusError(
            f"{manifest}: utterance '{name}' has duration_s '{stated}', not a number"
        ) from None


def refuse_duplicates(rows: Sequence[Row], source: Path) -> None:
    """Raise CorpusError when two rows have one id."""
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise CorpusError(
            f"{source}: {len(twice)} ids stand more than once, the first is '{twice[0]}'"
        )


def probe_files(rows: Iterable[Row], *, skip: list[str] | None, total: int = 0) -> Iterator[Row]:
    """Yield rows with what their files say; an unreadable one raises CorpusError, or is noted in `skip`."""
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
