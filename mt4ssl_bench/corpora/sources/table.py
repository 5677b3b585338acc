"""A TSV table as a source: columns in any order, every problem named with its row."""

import logging
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.lists import read_lists
from mt4ssl_bench.corpora.rows import (
    NO_LABELS,
    NO_OTHERS,
    NO_TURNS,
    SILENCE,
    SPLIT_NAME,
    Row,
    is_quoted,
    refuse_duplicates,
)
from mt4ssl_bench.corpora.source import Options, Source, Takes
from mt4ssl_bench.data.alignment import Alignment, read_alignment, read_rttm
from mt4ssl_bench.data.cut import SLOTS, Turn
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.text import read_number

LOGGER = logging.getLogger(__name__)
REQUIRED = ("id", "path")
OPTIONAL = ("duration_s", "speaker", "language", "text", "phones", "split", "sid_split")
LABEL, OTHER = "label:", "other:"  # before the names of labels and of other audio
UNQUOTED = (
    "expected cells without quotation marks around them; write the table again without quoting "
    "(pandas: quoting=csv.QUOTE_NONE, R: quote=FALSE)"
)


def read_table(
    manifest: Path,
    turns: Mapping[str, Alignment] | None = None,
    *,
    labels: Collection[str] = (),
) -> list[Row]:
    """Return the rows of a TSV.

    A row with an empty cell is unusable: nothing tells whether its text is missing or nobody
    speaks, so that an utterance without speech has SILENCE as its text (or phones). In a table
    without any text, the others' may be empty.

    Args:
        manifest: The table.
        turns: Alignments by tier, whose names are ids of utterances or names of files; see
            _names_of().
        labels: Columns that hold labels, besides those named label:NAME.

    Raises:
        CorpusError: If a line, id, path or duration cannot be used; the message names it.
    """
    header, lines = _read_cells(manifest, labels)
    folder = manifest.resolve().parent
    numbered = [(number, dict(zip(header, cells, strict=True))) for number, cells in lines]
    if {cells.get("text") for _, cells in numbered} == {"", SILENCE}:  # marks, and no text at all
        numbered = [(n, {k: v for k, v in c.items() if v or k != "text"}) for n, c in numbered]
    paths = {Path(cells["path"]) for _, cells in numbered} if turns else ()
    names = _names_of(paths, (turns or {}).values())
    rows = []
    for number, cells in numbered:
        known = (cells["id"], *names.get(Path(cells["path"]), ()))
        found = {tier: alignment.of(*known) for tier, alignment in (turns or {}).items()}
        rows.append(_row(cells, folder, found, (manifest, number)))
    if not rows:
        raise CorpusError(f"{manifest}: no utterance below its header")
    refuse_duplicates(rows, manifest)
    return rows


def _names_of(paths: Collection[Path], alignments: Collection[Alignment]) -> dict[Path, list[str]]:
    """Return the names that alignments have for each file, without those of several files.

    The file x/001.wav is "001" and "x-001", as a TextGrid file in a folder is.
    """
    names: dict[Path, list[str]] = {}
    for path in paths:
        parts = (*path.parts[:-1], path.stem)
        every = (path.stem, *("-".join(parts[n:]) for n in range(len(parts) - 1)))
        names[path] = [name for name in every if any(name in each for each in alignments)]
    files = Counter(name for each in names.values() for name in each)
    return {path: [name for name in each if files[name] == 1] for path, each in names.items()}


def _row(
    cells: dict[str, str],
    folder: Path,
    found: Mapping[str, tuple[Turn, ...] | None],
    place: tuple[Path, int],
) -> Row:
    """Return the row of one line.

    Args:
        cells: Its cells by column.
        folder: What paths are relative to.
        found: Turns by tier, None where the alignment lacks the utterance.
        place: The table and the line's number.
    """
    line = f"line {place[1]}"
    where = f"{place[0]}, {line}"
    if is_quoted(cells["path"]):
        raise CorpusError(f"{where}: its cells are quoted ({cells['path']}); {UNQUOTED}")
    labels = {sys.intern(n): sys.intern(cell) for n, cell in _prefixed(cells, LABEL)}
    others = {sys.intern(n): folder / cell for n, cell in _prefixed(cells, OTHER) if cell}
    empty = [name for name, cell in cells.items() if not cell and _is_read(name)]
    if {"id", "path"} & set(empty):
        raise CorpusError(f"{where}: utterance '{cells['id']}' has an empty {empty[0]}")
    for column in ("split", "sid_split"):
        if cells.get(column) and not SPLIT_NAME.fullmatch(cells[column]):
            raise CorpusError(
                f"{where}: '{cells[column]}' cannot name a split; letters, digits, _ . - can"
            )
    text, phones = (" ".join(cells.get(column, "").split()) for column in ("text", "phones"))
    silent = SILENCE in {text, phones}
    if silent and {text, phones} - {SILENCE, ""}:
        raise CorpusError(
            f"{where}: utterance '{cells['id']}' has {SILENCE} beside a text or phones; expected "
            f"{SILENCE} in both"
        )
    gaps = [name.removeprefix(LABEL) for name in empty]
    gaps = [name for name in gaps if not (silent and name == SLOTS)]
    gaps += [f"turns:{tier}" for tier, of in found.items() if of is None and not silent]
    return Row(
        id=cells["id"],
        path=folder / cells["path"],
        # one copy of each name, not a million
        speaker=sys.intern(cells.get("speaker", "")),
        language=sys.intern(cells.get("language", "")),
        text="" if silent else text,
        phones="" if silent else phones,
        split=sys.intern(cells.get("split", "")),
        sid_split=sys.intern(cells.get("sid_split", "")),
        labels=labels or NO_LABELS,
        turns={tier: of or () for tier, of in found.items()} or NO_TURNS,
        others=others or NO_OTHERS,
        stated=_seconds(cells.get("duration_s", ""), cells["id"], place[0]),
        silent=silent,
        unusable=(f"no_{gaps[0]}", line) if gaps else None,
    )


def _prefixed(cells: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    return ((n.removeprefix(prefix), cell) for n, cell in cells.items() if n.startswith(prefix))


def _is_read(column: str) -> bool:
    return column in REQUIRED or column in OPTIONAL or column.startswith((LABEL, OTHER))


def _read_cells(
    manifest: Path, labels: Collection[str]
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
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
    # split only at newlines: splitlines() also splits at U+2028 and its like, which texts may hold
    numbered = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line)
    header = [column.strip() for column in next(numbered, (0, ""))[1].split("\t")]
    if any(is_quoted(column) for column in header):
        raise CorpusError(f"{manifest}: its header is quoted ({header[0]}); {UNQUOTED}")
    for column in REQUIRED:
        if column not in header:
            commas = (
                "its columns are separated by tabs, not commas; " if "," in "".join(header) else ""
            )
            raise CorpusError(
                f"{manifest}: no column '{column}'; {commas}{hint(column, header)}; expected "
                f"{', '.join(REQUIRED)}"
            )
    for column in labels:
        if column not in header or _is_read(column):
            own = [name for name in header if name and not _is_read(name)]
            raise CorpusError(
                f"{manifest}: no column '{column}' that could be a label; {hint(column, own)}"
            )
    header = [f"{LABEL}{column}" if column in labels else column for column in header]
    twice = [column for column, count in Counter(header).items() if column and count > 1]
    if twice:
        raise CorpusError(f"{manifest}: column '{twice[0]}' is there twice; leave one out")
    unread = [column for column in header if column and not _is_read(column)]
    if unread:
        LOGGER.info(
            "%s: columns that are not read: %s; --label %s reads one as a label",
            manifest,
            ", ".join(unread),
            unread[0],
        )
    return header, (
        (number, _cells_of(line, header, f"{manifest}, line {number}")) for number, line in numbered
    )


def _cells_of(line: str, header: list[str], where: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) != len(header):
        raise CorpusError(
            f"{where}: {len(header)} columns expected, as in the header, found {len(cells)}"
            + ("; is there a tab inside a text?" if len(cells) > len(header) else "")
        )
    return cells


def _seconds(stated: str, name: str, manifest: Path) -> float | None:
    if not stated:
        return None
    with suppress(ValueError):
        seconds = read_number(stated)
        if math.isfinite(seconds):
            return seconds
    raise CorpusError(f"{manifest}: utterance '{name}' has duration_s '{stated}', not a number")


@dataclass(frozen=True, kw_only=True)
class Table(Options):
    """Options of a table: its labels, and what lies beside it."""

    label: Annotated[
        tuple[str, ...], "Column that holds a label (emotion, intent, fold); may be repeated."
    ] = ()
    rttm: Annotated[
        Path | None,
        "RTTM file: who speaks when (turns:speakers), by utterance id or name of the audio file.",
    ] = None
    alignment: Annotated[
        Path | None,
        "CTM file, TextGrid file or folder of TextGrid files: turns of each --tier, by utterance "
        "id or name of the audio file.",
    ] = None
    tier: Annotated[
        tuple[str, ...], "Tier of --alignment, and what a CTM holds; may be repeated."
    ] = ("phones",)
    list: Annotated[
        tuple[str, ...],
        "NAME=FILE: TSV of trials, queries, ...; columns that end in _id name utterances. May be "
        "repeated.",
    ] = ()

    def turns(self) -> dict[str, Alignment]:
        """Return the alignments by tier."""
        turns = {"speakers": read_rttm(self.rttm)} if self.rttm else {}
        if self.alignment:
            turns |= {tier: read_alignment(self.alignment, tier) for tier in self.tier}
        return turns


def read(manifest: Path, options: Table) -> Sequence[Row]:
    """Return the rows of a TSV."""
    return read_table(manifest, options.turns(), labels=options.label)


SOURCE = Source(
    name="table",
    about="A TSV of your own",
    read=read,
    options=Table,
    takes=Takes(
        "path",
        "MANIFEST",
        "TSV: id, path and any of speaker, language, text, phones, split, ...",
    ),
    help="""Columns: id, path (relative to the table), and any of duration_s, speaker, language,
    text, phones, split, sid_split, label:NAME (or NAME after --label) and other:NAME (the path of
    audio of the same length: clean, s1, ...). The label slots has one value for each word of the
    text, O for none. Missing columns limit which tasks the corpus can be
    used for.

    English texts without phones get CMUdict's, any language's --lexicon's; a table without split
    is split here. An empty cell is a gap and is rejected; the text of an utterance in which nobody
    speaks is <silence>.""",
    examples=(
        "table my_corpus/manifest.tsv --out corpora/mine",
        "table calls.tsv --label emotion --rttm calls.rttm --out corpora/calls",
    ),
    tasks="as its columns allow",
    phones_from="manifest",
    strict=True,
    lists=lambda _, options: read_lists(options.list),
)
