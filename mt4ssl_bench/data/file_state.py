"""The state of audio files since prepare: which changed, and which Unicode spelling a name has.

A cut notes its file's size and modification time. They are looked at where the file is about to be
used: one stat. A file of the noted size with another time is digested, once in each process.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mt4ssl_bench.data.cut import Cut, other_files
from mt4ssl_bench.errors import AudioChangedError
from mt4ssl_bench.settings import Json

_SAME: set[int] = set()  # hashes of (path, bytes, time) whose content was found to be the noted one


class FileState(NamedTuple):
    """What a corpus notes of an audio file, so that a change of it shows."""

    path: Path
    content: str  # digest of the file's bytes
    bytes: int
    modified: int  # nanoseconds


def states_of(cut: Cut) -> Mapping[str, FileState]:
    """Return what is noted of the cut's files by the name of the audio; "" is the cut's own.

    Corpora of earlier versions and shards note nothing of the cut's own.
    """
    noted, source = dict(other_files(cut)), cut.recording.sources[0]
    if source.type == "file":
        noted[""] = {**(cut.custom or {}), "source": str(source.source)}
    return {name: state for name, file in noted.items() if (state := _state(file))}


def _state(noted: Mapping[str, Json]) -> FileState | None:
    content, size, modified = noted.get("content"), noted.get("bytes"), noted.get("modified")
    if isinstance(content, str) and isinstance(size, int) and isinstance(modified, int):
        return FileState(Path(str(noted["source"])), content, size, modified)
    return None


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
    return [path for path in folder.iterdir() if unicodedata.normalize("NFC", path.name) == wanted]


def content_of(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def state_of(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def require_unchanged(cut: Cut, name: str = "") -> None:
    """Raise AudioChangedError if the file of the cut's audio is not the one that was prepared.

    Args:
        cut: The cut.
        name: Which of its audio, for example "clean"; "" is its own.
    """
    state = states_of(cut).get(name)
    if state and _is_changed(state):
        raise AudioChangedError(
            f"utterance '{cut.id}': {state.path} changed since the corpus was prepared; prepare "
            "the corpus again, into an empty folder"
        )


def is_changed(cut: Cut) -> bool:
    """Return whether size or content of a file of the cut differ from what the corpus notes.

    False for cuts without notes (corpora of earlier versions), audio in shards, and missing files.
    """
    return any(map(_is_changed, states_of(cut).values()))


def _is_changed(noted: FileState) -> bool:
    path = on_disk(noted.path)
    try:
        size, modified = state_of(path)
        if (size, modified) == (noted.bytes, noted.modified):
            return False
        key = hash((str(path), size, modified, noted.content))
        if key in _SAME:
            return False
        if size != noted.bytes or content_of(path) != noted.content.partition("@")[0]:
            return True
    except OSError:  # who reads it names it
        return False
    _SAME.add(key)
    return False
