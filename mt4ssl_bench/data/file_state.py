"""The state of audio files since prepare: which changed, and which Unicode spelling a name has.

A cut notes its file's size and modification time. They are looked at where the file is about to be
used: one stat. A file of the noted size with another time is digested, once in each process.
"""

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from mt4ssl_bench.errors import AudioChangedError

NOTED = {"content", "bytes", "modified"}  # of a file, in the `custom` field of its cuts
_SAME: set[int] = set()  # hashes of (path, bytes, time) whose content was found to be the noted one


def on_disk(path: Path) -> Path:
    """Return `path`, or the one file whose name differs only in its Unicode form (NFC, NFD)."""
    if str(path).isascii() or path.exists():
        return path
    place = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if part.isascii() or (place / part).exists():
            place /= part
            continue
        alike = _spellings(place, part)
        if len(alike) != 1:
            return path
        place = alike[0]
    return place


def _spellings(folder: Path, name: str) -> list[Path]:
    wanted = unicodedata.normalize("NFC", name)
    if not folder.is_dir():
        return []
    return [one for one in folder.iterdir() if unicodedata.normalize("NFC", one.name) == wanted]


def content_of(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def state_of(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def require_unchanged(cut: Any) -> None:  # noqa: ANN401 - lhotse ships no types
    """Raise AudioChangedError if the cut's file is not the one that was prepared."""
    if is_changed(cut):
        raise AudioChangedError(
            f"utterance '{cut.id}': {cut.recording.sources[0].source} changed since the corpus "
            "was prepared; prepare the corpus again, into an empty folder"
        )


def is_changed(cut: Any) -> bool:  # noqa: ANN401
    """Return whether size or content of the cut's file differ from what the corpus notes.

    False for cuts without notes (corpora of earlier versions), audio in shards, and missing files.
    """
    noted, source = cut.custom or {}, cut.recording.sources[0]
    if not noted.keys() >= NOTED or source.type != "file":
        return False
    path = on_disk(Path(source.source))
    try:
        size, modified = state_of(path)
        if (size, modified) == (noted["bytes"], noted["modified"]):
            return False
        key = hash((str(path), size, modified, noted["content"]))
        if key in _SAME:
            return False
        if size != noted["bytes"] or content_of(path) != noted["content"].partition("@")[0]:
            return True
    except OSError:  # who reads it names it
        return False
    _SAME.add(key)
    return False
