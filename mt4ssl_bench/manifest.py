"""A manifest's utterances: read from a TSV and checked against their audio files, all before anything is written."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mt4ssl_bench import audio
from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
REQUIRED = ("id", "path")
OPTIONAL = ("duration_s", "speaker", "language", "text", "phones", "split", "sid_split")
SPLIT_NAME = re.compile(r"\w[\w.-]*")  # a split's name is its file's
DURATION_SLACK = 0.1  # seconds by which a manifest may misstate a duration


@dataclass(frozen=True, kw_only=True)
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
    samples: int = 0
    rate: int = audio.RATE
    channels: int = 1
    content: str = ""  # digest of the file's bytes


def read_table(manifest: Path) -> list[Row]:
    """Return the rows of a TSV; raises CorpusError naming line or utterance for anything that cannot be used."""
    if not manifest.is_file():
        raise CorpusError(f"{manifest}: no such manifest")
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{manifest}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    # split at newlines alone: splitlines() also splits at U+2028 and its like, which texts may hold
    lines = [(n, line.split("\t")) for n, line in enumerate(text.split("\n"), start=1) if line]
    header = [column.strip() for column in lines[0][1]] if lines else []
    for column in REQUIRED:
        if column not in header:
            raise CorpusError(
                f"{manifest}: no column '{column}'; {hint(column, header)}; expected {', '.join(REQUIRED)}"
            )
    rows: list[tuple[Row, str]] = []
    wanted = [c for c in (*REQUIRED, *OPTIONAL) if c in header]
    for number, raw in lines[1:]:
        if len(raw) != len(header):
            raise CorpusError(f"{manifest}, line {number}: {len(header)} columns expected, as in the header")
        cells = {column: value.strip() for column, value in zip(header, raw, strict=True)}
        for column in wanted:
            if not cells[column]:
                raise CorpusError(f"{manifest}, line {number}: utterance '{cells['id']}' has an empty {column}")
        for column in ("split", "sid_split"):
            if column in wanted and not SPLIT_NAME.fullmatch(cells[column]):
                raise CorpusError(
                    f"{manifest}, line {number}: '{cells[column]}' cannot name a split; letters, digits, _ . - can"
                )
        path = Path(cells["path"])
        kept: dict[str, Any] = {c: cells[c] for c in wanted if c not in {"path", "duration_s"}}
        kept |= {c: " ".join(kept[c].split()) for c in ("text", "phones") if c in kept}
        rows.append((Row(**kept, path=manifest.resolve().parent / path), cells.get("duration_s", "")))
    if not rows:
        raise CorpusError(f"{manifest}: no utterance below its header")
    refuse_duplicates([row for row, _ in rows], manifest)
    return [_check_duration(row, stated, manifest) for row, stated in rows]


def _check_duration(row: Row, stated: str, manifest: Path) -> Row:
    if not stated:
        return row
    try:
        seconds = float(stated)
    except ValueError:
        raise CorpusError(f"{manifest}: utterance '{row.id}' has duration_s '{stated}', not a number") from None
    try:
        frames, rate, _ = audio.probe(row.path)
    except CorpusError as error:
        raise CorpusError(f"utterance '{row.id}': {error}") from None
    if not abs(frames / rate - seconds) <= DURATION_SLACK:  # as it stands, NaN is refused too
        raise CorpusError(
            f"{manifest}: utterance '{row.id}' lasts {frames / rate:.2f} s, not {seconds:.2f} s as stated"
        )
    return row


def refuse_duplicates(rows: Sequence[Row], source: Path) -> None:
    """Raise CorpusError when two rows have one id."""
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise CorpusError(f"{source}: {len(twice)} ids stand more than once, the first is '{twice[0]}'")


def probe_files(rows: Sequence[Row], *, skip: list[str] | None) -> list[Row]:
    """Return rows with what their files say; an unreadable one raises CorpusError, or is noted in `skip`."""

    def look(row: Row) -> Row | CorpusError:
        try:
            samples, rate, channels = audio.probe(row.path)
            with row.path.open("rb") as file:
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except (CorpusError, OSError) as error:
            return CorpusError(f"utterance '{row.id}': {error}")
        return replace(row, samples=samples, rate=rate, channels=channels, content=content)

    probed: list[Row] = []
    with progress("checking audio", len(rows)) as advance, ThreadPoolExecutor() as pool:
        for found in pool.map(look, rows):
            advance(1, "")
            if isinstance(found, Row):
                probed.append(found)
            elif skip is None:
                pool.shutdown(wait=False, cancel_futures=True)
                raise found
            else:
                LOGGER.warning("left out: %s", found)
                skip.append(str(found))
    return probed
