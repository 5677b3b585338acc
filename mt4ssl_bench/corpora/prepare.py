"""Rows to a corpus: checked before anything is written; every exclusion is counted."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mt4ssl_bench.corpora.check_rules import check_rows
from mt4ssl_bench.corpora.exclusions import Exclusions
from mt4ssl_bench.corpora.lists import checked_lists
from mt4ssl_bench.corpora.manifest import write_rows
from mt4ssl_bench.corpora.phones import Coverage, add_phones
from mt4ssl_bench.corpora.rows import (
    ATTRIBUTES,
    SPLIT_NAME,
    Row,
    field_names,
    probe,
    refuse_duplicates,
    with_single_spaces,
)
from mt4ssl_bench.corpora.splits import by_split, hold_out
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import CorpusInfo
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.data.lexicon_files import open_lexicon
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.data.turns import merged
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
# names that no label can have: a row's own columns, and reasons of exclusions.py (no_duration)
COLUMNS = ("id", "path", "language", "split", "sid_split", "duration_s")
TURNS = {  # what is counted
    "turns_cut_off": "turns of speakers reach beyond the end, where they are cut off",
    "turns_overlapping": "turns of one speaker overlap; diarization merges them",
}
RESERVED = frozenset([*ATTRIBUTES, *COLUMNS, "duration", "channel", "recording"])


def prepare(
    rows: Iterable[Row],
    out: Path,
    *,
    source: Path,
    name: str,
    licence: str = "unknown",
    lists: Lists | None = None,
    lexicon: Sequence[Path] = (),
    partial: bool = False,
    strict: bool = False,
    phones_from: str = "",
    synthetic: bool = False,
    notes: Mapping[str, Json] | None = None,
) -> Corpus:
    """Make a corpus of rows; English texts without phones get CMUdict's.

    Rows without any split are dealt over train, valid and test, whole speakers where there are 10.

    Args:
        rows: The utterances; see Row. Texts and phones get single spaces between words.
        out: Folder of the corpus.
        source: What the rows come from, for messages.
        name: Name of the corpus in tables.
        licence: Licence of the audio.
        lists: Named lists (trials, queries); a column that ends in "_id" names utterances.
        lexicon: Files with a word and its phones in each line.
        partial: Leave out and count what would be refused: rows whose files are missing or
            unreadable, that have a gap, a misplaced turn or other audio of unequal length.
        strict: Take silence and splits as the rows state them, as those of a table do.
        phones_from: What made the rows' own phones.
        synthetic: Whether nobody spoke.
        notes: More entries of corpus.json's notes.

    Returns:
        The corpus; the existing one if `out` holds the same.

    Raises:
        CorpusError: If the rows cannot be used; the message names the first. Nothing is written.
    """
    excluded = Exclusions(source, partial)
    rows = _usable(stated := list(map(with_single_spaces, rows)), excluded, strict=strict)
    checked = checked_lists(lists or {}, rows, excluded)
    noted = dict(notes or {}) | excluded.notes() | _about_turns(stated, rows, source)
    rows = rows if strict else _with_valid(rows, noted)
    rows, fields, book = _with_phones(rows, lexicon, noted)
    rows_of = by_split(rows)
    _check(rows_of, fields, noted)
    info = CorpusInfo(
        name=name,
        digest="",
        splits={},
        fields=fields,
        languages=sorted({row.language for row in rows} - {""}),
        licence=licence,
        synthetic=synthetic,
        phones_from=(book or phones_from) if "phones" in fields else "",
        notes=noted,
    )
    return write_rows(out, rows_of, checked, info)


def _about_turns(stated: Iterable[Row], rows: Iterable[Row], source: Path) -> dict[str, Json]:
    """Log and count utterances with turns that reached beyond them, or that overlap each other."""
    turns = {row.id: row.turns for row in stated if "speakers" in row.turns}
    own = [row for row in rows if row.id in turns]
    found = {
        "turns_cut_off": [row.id for row in own if row.turns != turns[row.id]],
        "turns_overlapping": [row.id for row in own if _overlapping(row.turns["speakers"])],
    }
    for reason, names in found.items():
        if names:
            about = "%s: %s: %d utterances, the first is '%s'"
            LOGGER.warning(about, source, TURNS[reason], len(names), names[0])
    return {reason: len(names) for reason, names in found.items() if names}


def _overlapping(turns: Sequence[Turn]) -> bool:
    """Return whether a speaker has two turns at a time."""
    seconds, once = (sum(t.end - t.start for t in each) for each in (turns, merged(turns)))
    return once < seconds - 1e-3  # RTTM files have milliseconds


def _with_valid(rows: list[Row], noted: dict[str, Json]) -> list[Row]:
    """Return the rows, some of `train` as `valid` if there is none."""
    splits = {row.split for row in rows}
    if "train" not in splits or "valid" in splits:
        return rows
    noted["valid"] = "held out of train here"
    return hold_out(rows)


def _check(rows_of: Mapping[str, list[Row]], fields: Sequence[str], noted: dict[str, Json]) -> None:
    report = check_rows(rows_of, fields=fields)
    report.log()
    if counts := report.counts():
        noted["check"] = counts


def _with_phones(
    rows: list[Row], lexicon: Sequence[Path], noted: dict[str, Json]
) -> tuple[list[Row], list[str], str]:
    """Return rows, the fields that all have, and the lexicon that gave them phones, or ""."""
    fields = [name for name in field_names(rows) if not any(row.lacks(name) for row in rows)]
    english = all(row.language.startswith("en") for row in rows if row.language)
    if "text" not in fields or not (lexicon or ("phones" not in fields and english)):
        return rows, fields, ""
    book, coverage = open_lexicon(lexicon), Coverage()
    rows = list(add_phones(rows, book, coverage))
    coverage.report(book.name)
    noted |= coverage.notes()
    return rows, sorted({*fields, "phones"}), book.name


def _usable(rows: list[Row], excluded: Exclusions, *, strict: bool) -> list[Row]:
    """Return the rows that a corpus can take, probed."""
    source = excluded.source
    if not rows:
        raise CorpusError(f"{source}: holds no utterance; is it the folder that was meant?")
    _check_names(rows, source)
    rows = excluded.usable(rows)
    refuse_duplicates(rows, source)
    if not excluded.partial:
        _require_files(rows, source)
    rows = excluded.usable(probe(rows, total=len(rows)))
    rows = rows if strict else excluded.without_gaps(rows)
    if not rows:
        raise CorpusError(f"{source}: no utterance can be used: {excluded.first()}")
    return rows


def _require_files(rows: Sequence[Row], source: Path) -> None:
    """Raise CorpusError if files are missing: many of them are half an archive."""
    files = [path for row in rows for path in (row.path, *row.others.values())]
    missing = [path for path in files if not on_disk(path).is_file()]
    if missing:
        raise CorpusError(
            f"{source}: {len(missing):,} of its {len(files):,} audio files are missing, the first "
            f"is {missing[0]}; is this half an archive? --partial takes what is there"
        )


def _check_names(rows: Sequence[Row], source: Path) -> None:
    """Raise CorpusError if a label, tier, split or other audio has a name that cannot be one."""
    files: dict[str, str] = {}  # of splits; on macOS and Windows, Train and train are one file
    for split in sorted({row.split for row in rows}):
        other = files.setdefault(split.casefold(), split)
        if other != split:
            raise CorpusError(f"{source}: the splits '{other}' and '{split}' differ in case only")
    names = {name for row in rows for name in (*row.labels, *row.turns, *row.others)}
    labels = {name for row in rows for name in row.labels}
    for name in sorted(names):
        if not SPLIT_NAME.fullmatch(name) or (name in labels and name in RESERVED):
            raise CorpusError(
                f"{source}: '{name}' cannot name a label, tier or other audio; expected letters, "
                f"digits, _ . - and none of {', '.join(sorted(RESERVED))}"
            )
