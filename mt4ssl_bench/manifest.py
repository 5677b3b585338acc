"""A manifest's utterances: read from a TSV and checked against their audio files, all before anything is written."""

import itertools
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mt4ssl_bench import audio
from mt4ssl_bench.console import progress
from mt4ssl_bench.containers import Defect, defect_of
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.file_state import content_of, on_disk, state_of
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
REQUIRED = ("id", "path")
OPTIONAL = ("duration_s", "speaker", "language", "text", "phones", "split", "sid_split")
REPEATED = ("speaker", "language", "split", "sid_split")
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # a split's name is its file's
DURATION_SLACK = 0.1  # seconds by which a manifest may misstate a duration
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
    seconds: float = 0.0  # its length; 0 takes the whole file
    samples: int = 0  # of the whole file, as are rate and channels
    rate: int = audio.RATE
    channels: int = 1
    content: str = ""  # digest of the file's bytes, and the place of the utterance in it
    bytes: int = 0  # of the file, noted so that a change shows, as is the time
    modified: int = 0  # nanoseconds
    defects: tuple[Defect, ...] = ()  # of the file's length

    @property
    def duration(self) -> float:
        """Seconds of the utterance."""
        return self.seconds or self.samples / self.rate


def read_table(manifest: Path) -> list[Row]:
    """Return the rows of a TSV; raises CorpusError naming line or utterance for anything that cannot be used."""
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
        for column in wanted:
            if not cells[column]:
                raise CorpusError(
                    f"{manifest}, line {number}: utterance '{cells['id']}' has an empty {column}"
                )
        for column in ("split", "sid_split"):
            if column in wanted and not SPLIT_NAME.fullmatch(cells[column]):
                raise CorpusError(
                    f"{manifest}, line {number}: '{cells[column]}' cannot name a split; letters, digits, _ . - can"
                )
        kept: dict[str, Any] = {c: cells[c] for c in wanted if c not in {"path", "duration_s"}}
        kept |= {
            c: sys.intern(kept[c]) for c in REPEATED if c in kept
        }  # one copy of each name, not a million
        kept |= {c: " ".join(kept[c].split()) for c in ("text", "phones") if c in kept}
        kept["stated"] = _seconds(cells.get("duration_s", ""), cells["id"], manifest)
        rows.append(Row(**kept, path=folder / cells["path"]))
    if not rows:
        raise CorpusError(f"{manifest}: no utterance below its header")
    refuse_duplicates(rows, manifest)
    return rows


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
    if row.seconds and not (row.start >= 0 and row.start + row.seconds <= lasts + DURATION_SLACK):
        end = row.start + row.seconds
        return CorpusError(
            f"utterance '{row.id}': {row.start:.2f}-{end:.2f} s of a file of {lasts:.2f} s "
            f"({file.path}){why}"
        )
    place = f"@{row.start:.3f}+{row.seconds:.3f}" if row.seconds else ""
    facts = {field.name: getattr(file, field.name) for field in fields(file)}
    return replace(row, **facts | {"content": file.content + place})


def one_line(value: object) -> str:
    """Return a value in one line; nothing for None, which is how a missing one is said."""
    return "" if value is None else " ".join(str(value).split())
