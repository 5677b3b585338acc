"""A TSV table as a source: columns in any order, every problem named with its row."""

import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mt4ssl_bench.corpora.rows import SILENCE, SPLIT_NAME, Row, is_quoted, refuse_duplicates
from mt4ssl_bench.corpora.source import Options, Source, Takes
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.text import read_number

LOGGER = logging.getLogger(__name__)
REQUIRED = ("id", "path")
OPTIONAL = ("duration_s", "speaker", "language", "text", "phones", "split", "sid_split")
REPEATED = ("speaker", "language", "split", "sid_split")
UNQUOTED = (
    "expected cells without quotation marks around them; write the table again without quoting "
    "(pandas: quoting=csv.QUOTE_NONE, R: quote=FALSE)"
)


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
                f"{manifest}, line {number}: {len(header)} columns expected, as in the header, "
                f"found {len(raw)}"
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
                    f"{manifest}, line {number}: '{cells[column]}' cannot name a split; letters, "
                    "digits, _ . - can"
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
                f"{manifest}: no column '{column}'; {commas}{hint(column, header)}; expected "
                f"{', '.join(REQUIRED)}"
            )
    twice = [column for column, count in Counter(header).items() if column and count > 1]
    if twice:
        raise CorpusError(f"{manifest}: column '{twice[0]}' is there twice; leave one out")
    unread = [column for column in header if column and column not in {*REQUIRED, *OPTIONAL}]
    if unread:
        LOGGER.info("%s: columns that are not read: %s", manifest, ", ".join(unread))
    return header, lines


def _seconds(stated: str, name: str, manifest: Path) -> float | None:
    if not stated:
        return None
    with suppress(ValueError):
        seconds = read_number(stated)
        if math.isfinite(seconds):
            return seconds
    raise CorpusError(f"{manifest}: utterance '{name}' has duration_s '{stated}', not a number")


def read(manifest: Path, _: Options) -> list[Row]:
    """Return the rows of a TSV."""
    return read_table(manifest)


SOURCE = Source(
    name="table",
    about="A TSV of your own",
    read=read,
    options=Options,
    takes=Takes(
        "path",
        "MANIFEST",
        "TSV: id, path and any of speaker, language, text, phones, split, ...",
    ),
    help="""Columns: id, path (relative to the table), and any of duration_s, speaker, language,
    text, phones, split, sid_split; missing columns limit which tasks the corpus can be used for.
    English texts without phones get CMUdict's, any language's --lexicon's; a table without split
    is split here. An empty cell is a gap and is rejected; the text of an utterance in which nobody
    speaks is <silence>.""",
    examples=("table my_corpus/manifest.tsv --out corpora/mine",),
    tasks="as its columns allow",
    phones_from="manifest",
    strict=True,
)
