"""Rows as a corpus on disk: its digest, its cuts as Lhotse writes them, and its lists."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mt4ssl_bench.corpora.rows import SILENCE, Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import CorpusInfo
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.data.write_corpus import write_corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)


def write_rows(
    out: Path, splits: Mapping[str, Sequence[Row]], lists: Lists, info: CorpusInfo
) -> Corpus:
    """Write a corpus, unless it is there; `info` lacks only what its rows and lists say.

    Raises:
        CorpusError: If `out` holds another corpus, or this one with audio that was moved.
    """
    digest = digest_of(splits, lists)
    if (out / "corpus.json").exists():
        existing = Corpus.open(out)
        if existing.info.digest == digest:
            _require_audio(existing)
            named, hint = existing.info.name, _not_taken(existing.info, info)
            LOGGER.info("%s: already prepared as '%s', unchanged%s", out, named, hint)
            return existing
        raise CorpusError(
            f"{out}: holds another corpus ({existing.info.name}, {existing.info.digest}); choose "
            "another --out"
        )
    root = out.resolve()
    cuts = {split: (cut_of(row, root) for row in rows) for split, rows in splits.items()}
    return write_corpus(
        out, cuts, lambda infos: replace(info, digest=digest, splits=infos), lambda: lists
    )


def _not_taken(there: CorpusInfo, asked: CorpusInfo) -> str:
    """Return how to get what the digest does not hold and the corpus that is there lacks, or ""."""
    facts, wanted = (
        {"name": info.name, "language": ", ".join(info.languages), "licence": info.licence}
        for info in (there, asked)
    )
    others = [f"the {key} '{value}'" for key, value in wanted.items() if value != facts[key]]
    return f"; for {' and '.join(others)}, choose another --out" if others else ""


def _require_audio(corpus: Corpus) -> None:
    """Raise CorpusError if the first file of a split is gone: the audio was moved since then."""
    for split in () if corpus.info.shards else corpus.info.splits:
        file = Path(str(corpus.cuts(split)[0].recording.sources[0].source))
        if not on_disk(file).is_file():
            raise CorpusError(
                f"{corpus.root}: holds this corpus, but its audio was moved since then ({file} is "
                "missing); delete the folder, or choose another --out"
            )


def digest_of(splits: Mapping[str, Sequence[Row]], lists: Lists) -> str:
    """Return 16 hex digits of everything that a result may depend on, but no path."""
    digest = hashlib.sha256()
    lines = [
        f"{split}\t{row.id}\t{row.content}\t{SILENCE if row.silent else row.text}"
        f"\t{row.phones}\t{row.speaker}{_more(row)}"
        for split, rows in splits.items()
        for row in rows
    ]
    lines += [
        f"list {name}\t{json.dumps(dict(row), sort_keys=True)}"
        for name, rows in lists.items()
        for row in rows
    ]
    for number, line in enumerate(sorted(lines)):
        digest.update(f"\n{line}".encode() if number else line.encode())
    return digest.hexdigest()[:16]


def _more(row: Row) -> str:
    """Return a row's labels, turns and others for the digest; "" for a row that has none."""
    others = {name: file.content for name, file in row.other_files.items()}
    parts = {"labels": dict(row.labels), "turns": dict(row.turns), "others": others}
    more = {name: part for name, part in parts.items() if part}
    return f"\t{json.dumps(more, sort_keys=True)}" if more else ""


def cut_of(row: Row, root: Path) -> dict[str, Json]:
    """Return the row as Lhotse writes a cut: building its objects first takes ten times as long.

    Audio below `root` has a relative path, so that a corpus that holds its audio can be moved.
    """
    channels = list(range(row.channels))
    channel: Json = channels if len(channels) > 1 else 0
    duration = row.duration
    recording: dict[str, Json] = {
        "id": row.id,
        "sources": [{"type": "file", "channels": channels, "source": _place(row.path, root)}],
        "sampling_rate": row.rate,
        "num_samples": row.samples,
        "duration": row.samples / row.rate,
        "channel_ids": channels,
    }
    supervision: dict[str, Json] = {
        "id": row.id,
        "recording_id": row.id,
        "start": 0.0,
        "duration": duration,
        "channel": channel,
    }
    if row.text or row.silent:
        supervision["text"] = row.text
    supervision |= {
        key: value
        for key, value in {"language": row.language, "speaker": row.speaker}.items()
        if value
    }
    if row.phones:
        supervision["custom"] = {"phones": row.phones}
    has_speech = row.text or row.speaker or row.phones or row.silent
    return {
        "id": row.id,
        "start": row.start,
        "duration": duration,
        "channel": channel,
        "supervisions": [supervision] if has_speech else [],
        "recording": recording,
        "custom": _custom(row, root),
        "type": "MultiCut" if len(channels) > 1 else "MonoCut",
    }


def _custom(row: Row, root: Path) -> dict[str, Json]:
    """Return what Lhotse has no field for: the state of the file, labels, turns, other audio."""
    custom: dict[str, Json] = {
        "content": row.content,
        "bytes": row.bytes,
        "modified": row.modified,
    }
    if row.labels:
        custom["labels"] = dict(row.labels)
    if row.turns:  # stored in the recording's time, so that a part of the cut keeps them
        custom["turns"] = {
            tier: [[start + row.start, end + row.start, label] for start, end, label in turns]
            for tier, turns in row.turns.items()
        }
    if row.other_files:
        custom["others"] = {
            name: {
                "source": _place(file.path, root),
                "content": file.content,
                "bytes": file.bytes,
                "modified": file.modified,
            }
            for name, file in row.other_files.items()
        }
    return custom


def _place(path: Path, root: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
