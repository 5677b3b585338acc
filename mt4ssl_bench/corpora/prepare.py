"""Audio and manifests to corpora: everything is checked before anything is written, and every
exclusion is counted.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.check_rules import check_rows
from mt4ssl_bench.corpora.exclusions import ATTRIBUTES, Exclusions, has_all
from mt4ssl_bench.corpora.phones import Coverage, add_phones
from mt4ssl_bench.corpora.rows import SILENCE, Row, probe_files, refuse_duplicates
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import SID_PREFIX, Corpus, write_corpus
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.data.lexicon import open_lexicon
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)


def prepare_table(
    manifest: Path,
    out: Path,
    *,
    name: str = "",
    licence: str = "unknown",
    synthetic: bool = False,
    lexicon: Sequence[Path] = (),
    partial: bool = False,
) -> Corpus:
    """Make a corpus from a TSV with the columns id, path and any of OPTIONAL.

    Paths are relative to the manifest.

    Without a `split` column, splits are made: speaker-disjoint where there are at least 10
    speakers. Without `phones`, English texts get CMUdict's; `lexicon` files give any language's.
    `partial` leaves out rows with empty cells and files that are missing or unreadable, counted in
    corpus.json.

    Raises:
        CorpusError: If a row cannot be used; the message names row and problem. Nothing is written.
    """
    rows = read_table(manifest)
    empty = [row for row in rows if row.unusable]
    if empty and not partial:
        assert empty[0].unusable is not None
        reason, line = empty[0].unusable
        raise CorpusError(
            f"{manifest}, {line}: utterance '{empty[0].id}' has an empty "
            f"{reason.removeprefix('no_')} ({len(empty)} of {len(rows)} rows have an empty cell); "
            f"fill it in, write {SILENCE} as the text of an utterance in which nobody speaks, "
            "or leave such rows out with --partial"
        )
    excluded, skipped = Exclusions(manifest), list[str]()
    rows = excluded.usable(rows)
    found = list(probe_files(rows, skip=skipped if partial else None, total=len(rows)))
    if not found:
        first = skipped[0] if skipped else excluded.first()
        raise CorpusError(f"{manifest}: no row can be used: {first}")
    return _finish(
        out,
        found,
        lexicon=lexicon,
        name=name or manifest.resolve().parent.name,
        notes=excluded.notes() | _excluded(skipped),
        licence=licence,
        synthetic=synthetic,
    )


def prepare_folder(folder: Path, out: Path, *, name: str = "", licence: str = "unknown") -> Corpus:
    """Make a pretraining corpus of every audio file below `folder`; 2 % of them are kept for
    validation.

    Unreadable files are left out, named in the log and counted in corpus.json. Raises CorpusError
    when nothing is left.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    listed = list(audio_files(folder, audio.SUFFIXES | audio.OTHER))
    files = [file for file in listed if file.suffix.lower() in audio.SUFFIXES]
    others = [file for file in listed if file.suffix.lower() in audio.OTHER]
    skipped = [f"{file}: libsndfile reads no {file.suffix}" for file in others]
    skipped += [
        f"{str(file)!a}: its name is not UTF-8; rename it" for file in files if not _is_text(file)
    ]
    places = [file.relative_to(folder) for file in files if _is_text(file)]
    names = ["-".join(place.with_suffix("").parts) for place in places]
    often = Counter(names)  # one.wav and one.mp3, or a/b.wav and a-b.wav, keep their paths as ids
    rows = [
        Row(
            id=name if often[name] == 1 else place.as_posix(),
            path=(folder / place).absolute(),
            split="train",
        )
        for place, name in zip(places, names, strict=True)
    ]
    if not rows:
        raise CorpusError(
            f"{folder}: no audio file below it (looked for {', '.join(sorted(audio.SUFFIXES))})"
        )
    refuse_duplicates(rows, folder)
    for line in skipped:
        LOGGER.warning("left out: %s", line)
    found = list(probe_files(rows, skip=skipped, total=len(rows)))
    if not found:
        raise CorpusError(
            f"{folder}: none of its {len(rows)} audio files can be read; the first: {skipped[0]}"
        )
    found = _hold_out(found)
    return _finish(
        out, found, notes=_excluded(skipped), name=name or folder.resolve().name, licence=licence
    )


def prepare_rows(
    rows: Iterable[Row],
    out: Path,
    *,
    source: Path,
    partial: bool = False,
    lexicon: Sequence[Path] = (),
    phones_from: str = "",
    notes: Mapping[str, Any] | None = None,
    **facts: Any,  # noqa: ANN401 - CorpusInfo's fields
) -> Corpus:
    """Make a corpus of the rows that a reader of a published layout yields.

    Args:
        source: where they come from, for messages.
        partial: leave out files that are missing or unreadable, and utterances that lack a text,
            phones or a speaker that others of their split have; all are counted in corpus.json.
        phones_from: what made the rows' own phones.

    Unusable rows (see Row) are always left out and counted. A corpus without a `valid` split gets
    one out of `train`, by speaker. Raises CorpusError before anything is written.
    """
    rows, excluded = list(rows), Exclusions(source)
    if not rows:
        raise CorpusError(f"{source}: holds no utterance; is it the folder that was meant?")
    rows = excluded.usable(rows)
    refuse_duplicates(rows, source)
    skipped: list[str] = []
    if not partial:
        missing = [row for row in rows if not on_disk(row.path).is_file()]
        if missing:
            raise CorpusError(
                f"{source}: {len(missing):,} of its {len(rows):,} audio files are missing, the "
                f"first is {missing[0].path}; is this half an archive? --partial takes what is "
                "there"
            )
    found = list(probe_files(rows, skip=skipped if partial else None, total=len(rows)))
    if rows and not found:
        raise CorpusError(
            f"{source}: none of its {len(rows):,} audio files can be read; the first: {skipped[0]}"
        )
    found = excluded.without_gaps(excluded.usable(found), partial=partial)
    if not found:
        raise CorpusError(f"{source}: no utterance can be used: {excluded.first()}")
    said = dict(notes or {}) | excluded.notes() | _excluded(skipped)
    if "valid" not in {row.split for row in found} and any(row.split == "train" for row in found):
        found = _hold_out(found)
        said["valid"] = "held out of train here"
    return _finish(out, found, lexicon=lexicon, phones_from=phones_from, notes=said, **facts)


def prepare_demo(out: Path) -> Corpus:
    """Make the demo corpus: this project's own English sentences, spoken by eSpeak NG in a process
    of its own.
    """
    from mt4ssl_bench.corpora.sources.demo import speak

    manifest = speak(out)
    licence = "MIT (sentences); audio synthesised with eSpeak NG"
    return prepare_table(manifest, out, name="demo", licence=licence, synthetic=True)


def _finish(
    out: Path,
    rows: list[Row],
    *,
    lexicon: Sequence[Path] = (),
    phones_from: str = "manifest",
    notes: Mapping[str, Any] | None = None,
    **facts: Any,  # noqa: ANN401 - CorpusInfo's fields
) -> Corpus:
    """Add phones and splits, check what came of it, and write it."""
    columns = {name for name in ATTRIBUTES if has_all(rows, name)}
    languages = sorted({row.language for row in rows} - {""})
    english = all(lang.startswith("en") for lang in languages or ["en"])
    said = dict(notes or {})
    if "text" in columns and (lexicon or ("phones" not in columns and english)):
        book, coverage = open_lexicon(lexicon), Coverage()
        rows = list(add_phones(rows, book, coverage))
        coverage.report(book.name)
        columns.add("phones")
        phones_from, said = book.name, said | coverage.notes()
    splits = _split(rows)
    report = check_rows(splits, fields=sorted(columns))
    report.log()
    return _write(
        out,
        splits,
        fields=sorted(columns),
        languages=languages,
        phones_from=phones_from if "phones" in columns else "",
        notes=said | ({"check": counts} if (counts := report.counts()) else {}),
        **facts,
    )


def _is_text(file: Path) -> bool:
    """Return whether a file's name is text: on Linux it may be any bytes."""
    try:
        return bool(str(file).encode())
    except UnicodeEncodeError:
        return False


def _hold_out(rows: list[Row]) -> list[Row]:
    """Move a tenth of `train` (2 % without texts) to `valid`: speakers where there are 10, else
    utterances.
    """
    train = [row for row in rows if row.split == "train"]
    speakers = {row.speaker for row in train} - {""}
    column = "speaker" if len(speakers) >= 10 else "id"
    groups = sorted({str(getattr(row, column)) for row in train}, key=_rank)
    share = 10 if any(row.text for row in train) else 50
    count = max(1, len(groups) // share) if len(groups) > 1 else 0
    held = set(groups[:count])
    return [
        replace(row, split="valid")
        if row.split == "train" and getattr(row, column) in held
        else row
        for row in rows
    ]


def _excluded(skipped: Sequence[str]) -> dict[str, Any]:
    """Return corpus.json's counts of what was left out, by reason."""
    reasons: dict[str, list[str]] = {}
    for line in skipped:
        reasons.setdefault("missing" if line.endswith("no such file") else "unreadable", []).append(
            line
        )
    return {key: len(lines) for key, lines in reasons.items()} | {
        f"{key}_examples": lines[:20] for key, lines in reasons.items()
    }


def _split(rows: list[Row]) -> dict[str, list[Row]]:
    """Return rows by split, as the manifest says or made here.

    Adds SID's splits where the plain ones part speakers.
    """
    speakers = {row.speaker for row in rows} - {""}
    if not any(row.split for row in rows):
        by = (lambda row: row.speaker) if len(speakers) >= 10 else (lambda row: row.id)
        rows = _assign(rows, "split", by, shares=(0.8, 0.1, 0.1))
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    heard = {name: {row.speaker for row in members} for name, members in splits.items()}
    shared = all(heard.get(name, set()) <= heard.get("train", set()) for name in ("valid", "test"))
    if len(speakers) > 1 and not any(row.sid_split for row in rows) and not shared:
        voices: dict[str, list[Row]] = {}
        for row in rows:
            if row.speaker:
                voices.setdefault(row.speaker, []).append(row)
        rows = [
            row
            for speaker in sorted(voices)
            for row in _assign(
                voices[speaker], "sid_split", lambda row: row.id, shares=(0.7, 0.15, 0.15)
            )
        ]
    for row in rows:
        if row.sid_split:
            splits.setdefault(SID_PREFIX + row.sid_split, []).append(row)
    return splits


def _assign(
    rows: Sequence[Row], column: str, by: Callable[[Row], str], shares: tuple[float, float, float]
) -> list[Row]:
    """Deal groups of rows over train, valid and test in a fixed pseudo-random order."""
    groups = sorted({by(row) for row in rows}, key=_rank)
    valid, test = (
        max(1, round(share * len(groups))) if len(groups) > 2 else 0 for share in shares[1:]
    )
    place = {
        g: "valid" if i < valid else "test" if i < valid + test else "train"
        for i, g in enumerate(groups)
    }
    changes: list[dict[str, Any]] = [{column: place[by(row)]} for row in rows]
    return [replace(row, **change) for row, change in zip(rows, changes, strict=True)]


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _digest(splits: dict[str, list[Row]]) -> str:
    digest = hashlib.sha256()
    lines = sorted(
        f"{split}\t{row.id}\t{row.content}\t{SILENCE if row.silent else row.text}"
        f"\t{row.phones}\t{row.speaker}"
        for split, members in splits.items()
        for row in members
    )
    for number, line in enumerate(lines):
        digest.update(f"\n{line}".encode() if number else line.encode())
    return digest.hexdigest()[:16]


# CorpusInfo's fields
def _write(out: Path, splits: dict[str, list[Row]], **facts: Any) -> Corpus:  # noqa: ANN401
    digest = _digest(splits)
    if (out / "corpus.json").exists():
        existing = Corpus.open(out)
        if existing.info.digest == digest:
            LOGGER.info("%s: already prepared, unchanged", out)
            return existing
        raise CorpusError(
            f"{out}: holds another corpus ({existing.info.name}, {existing.info.digest}); choose "
            "another --out"
        )
    root = out.resolve()
    cuts = {split: (_cut(row, root) for row in members) for split, members in splits.items()}
    return write_corpus(out, cuts, digest=digest, **facts)


def _cut(row: Row, root: Path) -> dict[str, Any]:
    """Return the row as lhotse writes a cut: building its objects first takes ten times as long."""
    path = row.path.resolve()
    source = (
        path.relative_to(root) if path.is_relative_to(root) else path
    )  # a corpus that holds its audio can be moved
    channels = list(range(row.channels))
    duration = row.duration
    cut: dict[str, Any] = {
        "id": row.id,
        "start": row.start,
        "duration": duration,
        "channel": channels if len(channels) > 1 else 0,
        "supervisions": [],
        "recording": {
            "id": row.id,
            "sources": [{"type": "file", "channels": channels, "source": str(source)}],
            "sampling_rate": row.rate,
            "num_samples": row.samples,
            "duration": row.samples / row.rate,
            "channel_ids": channels,
        },
        "custom": {"content": row.content, "bytes": row.bytes, "modified": row.modified},
        "type": "MultiCut" if len(channels) > 1 else "MonoCut",
    }
    if row.text or row.speaker or row.phones or row.silent:
        said = {"language": row.language, "speaker": row.speaker}
        cut["supervisions"] = [
            {
                "id": row.id,
                "recording_id": row.id,
                "start": 0.0,
                "duration": duration,
                "channel": cut["channel"],
            }
            | ({"text": row.text} if row.text or row.silent else {})
            | {key: value for key, value in said.items() if value}
            | ({"custom": {"phones": row.phones}} if row.phones else {})
        ]
    return cut
