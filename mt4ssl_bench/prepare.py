"""Audio and manifests to corpora: everything is checked before anything is written, and every exclusion is counted."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mt4ssl_bench import audio
from mt4ssl_bench.corpus import SID_PREFIX, Corpus, write_corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.lexicon import cmudict, pronounce
from mt4ssl_bench.manifest import Row, probe_files, read_table, refuse_duplicates

LOGGER = logging.getLogger(__name__)


def prepare_table(
    manifest: Path, out: Path, *, name: str = "", licence: str = "unknown", synthetic: bool = False
) -> Corpus:
    """Make a corpus from a TSV with the columns id, path and any of OPTIONAL; paths are relative to the manifest.

    Without a `split` column, splits are made: speaker-disjoint where there are at least 10 speakers. Without `phones`,
    English texts get CMUdict's. Raises CorpusError naming row and problem, before anything is written.
    """
    rows = read_table(manifest)
    rows = probe_files(rows, skip=None)
    columns = {field for field in ("speaker", "text", "phones") if all(getattr(row, field) for row in rows)}
    languages = sorted({row.language for row in rows} - {""})
    phones_from, notes = "manifest" if "phones" in columns else "", {}
    if "text" in columns and "phones" not in columns and all(lang.startswith("en") for lang in languages or ["en"]):
        missing: Counter[str] = Counter()
        rows = [replace(row, phones=pronounce(row.text, cmudict(), missing)) for row in rows]
        columns.add("phones")
        phones_from = "cmudict, first pronunciation"
        if missing:
            notes = {"out_of_vocabulary": dict(missing.most_common())}
            LOGGER.warning(
                "%d words outside CMUdict became SPN: %s",
                len(missing),
                ", ".join(list(notes["out_of_vocabulary"])[:10]),
            )
    splits = _split(rows)
    return _write(
        out,
        splits,
        name=name or manifest.resolve().parent.name,
        fields=sorted(columns),
        languages=languages,
        licence=licence,
        synthetic=synthetic,
        phones_from=phones_from,
        notes=notes,
    )


def prepare_folder(folder: Path, out: Path, *, name: str = "", licence: str = "unknown") -> Corpus:
    """Make a pretraining corpus of every audio file below `folder`; 2 % of them are kept for validation.

    Unreadable files are left out, named in the log and counted in corpus.json. Raises CorpusError when nothing is left.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in audio.SUFFIXES and f.is_file())
    if not files:
        raise CorpusError(f"{folder}: no audio file below it (looked for {', '.join(sorted(audio.SUFFIXES))})")
    rows = [
        Row(id=f.relative_to(folder).with_suffix("").as_posix().replace("/", "-"), path=f.absolute()) for f in files
    ]
    refuse_duplicates(rows, folder)
    skipped: list[str] = []
    rows = probe_files(rows, skip=skipped)
    if not rows:
        raise CorpusError(f"{folder}: none of its {len(files)} audio files can be read; the first: {skipped[0]}")
    ranked = sorted(rows, key=lambda row: _rank(row.id))
    held = max(1, len(ranked) // 50) if len(ranked) > 1 else 0
    splits = {"train": ranked[held:], "valid": ranked[:held]}
    notes = {"unreadable": len(skipped), "unreadable_examples": skipped[:20]} if skipped else {}
    return _write(out, splits, name=name or folder.resolve().name, licence=licence, fields=[], notes=notes)


def prepare_demo(out: Path) -> Corpus:
    """Make the demo corpus: this project's own English sentences, spoken by eSpeak NG in a process of its own."""
    from mt4ssl_bench.demo import speak

    manifest = speak(out)
    licence = "MIT (sentences); audio synthesised with eSpeak NG"
    return prepare_table(manifest, out, name="demo", licence=licence, synthetic=True)


def _split(rows: list[Row]) -> dict[str, list[Row]]:
    """Return rows by split, as the manifest says or made here; adds SID's splits where the plain ones part speakers."""
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
        made: list[Row] = []
        for speaker in sorted(speakers):
            own = [row for row in rows if row.speaker == speaker]
            made += _assign(own, "sid_split", lambda row: row.id, shares=(0.7, 0.15, 0.15))
        rows = made
    for row in rows:
        if row.sid_split:
            splits.setdefault(SID_PREFIX + row.sid_split, []).append(row)
    return splits


def _assign(
    rows: Sequence[Row], column: str, by: Callable[[Row], str], shares: tuple[float, float, float]
) -> list[Row]:
    """Deal groups of rows over train, valid and test in a fixed pseudo-random order."""
    groups = sorted({by(row) for row in rows}, key=_rank)
    valid, test = (max(1, round(share * len(groups))) if len(groups) > 2 else 0 for share in shares[1:])
    place = {g: "valid" if i < valid else "test" if i < valid + test else "train" for i, g in enumerate(groups)}
    changes: list[dict[str, Any]] = [{column: place[by(row)]} for row in rows]
    return [replace(row, **change) for row, change in zip(rows, changes, strict=True)]


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _digest(splits: dict[str, list[Row]]) -> str:
    digest = hashlib.sha256()
    lines = sorted(
        f"{split}\t{row.id}\t{row.content}\t{row.text}\t{row.phones}\t{row.speaker}"
        for split, members in splits.items()
        for row in members
    )
    for number, line in enumerate(lines):
        digest.update(f"\n{line}".encode() if number else line.encode())
    return digest.hexdigest()[:16]


def _write(out: Path, splits: dict[str, list[Row]], **facts: Any) -> Corpus:  # noqa: ANN401 - CorpusInfo's fields
    digest = _digest(splits)
    if (out / "corpus.json").exists():
        existing = Corpus.open(out)
        if existing.info.digest == digest:
            LOGGER.info("%s: already prepared, unchanged", out)
            return existing
        raise CorpusError(
            f"{out}: holds another corpus ({existing.info.name}, {existing.info.digest}); choose another --out"
        )
    root = out.resolve()
    cuts = {split: (_cut(row, root) for row in members) for split, members in splits.items()}
    return write_corpus(out, cuts, digest=digest, **facts)


def _cut(row: Row, root: Path) -> dict[str, Any]:
    """Return the row as lhotse writes a cut: building its objects first takes ten times as long."""
    path = row.path.resolve()
    source = path.relative_to(root) if path.is_relative_to(root) else path  # a corpus that holds its audio can be moved
    channels = list(range(row.channels))
    duration = row.samples / row.rate
    cut: dict[str, Any] = {
        "id": row.id,
        "start": 0.0,
        "duration": duration,
        "channel": channels if len(channels) > 1 else 0,
        "supervisions": [],
        "recording": {
            "id": row.id,
            "sources": [{"type": "file", "channels": channels, "source": str(source)}],
            "sampling_rate": row.rate,
            "num_samples": row.samples,
            "duration": duration,
            "channel_ids": channels,
        },
        "type": "MultiCut" if len(channels) > 1 else "MonoCut",
    }
    if row.text or row.speaker or row.phones:
        said = {"text": row.text, "language": row.language, "speaker": row.speaker}
        cut["supervisions"] = [
            {"id": row.id, "recording_id": row.id, "start": 0.0, "duration": duration, "channel": cut["channel"]}
            | {key: value for key, value in said.items() if value}
            | ({"custom": {"phones": row.phones}} if row.phones else {})
        ]
    return cut
