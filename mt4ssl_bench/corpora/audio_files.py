"""The audio files below a folder, without a system's own; audio written into a corpus's folder."""

import hashlib
import logging
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from mt4ssl_bench.data import audio_headers
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import written

LOGGER = logging.getLogger(__name__)
SYSTEM = (
    frozenset(  # folders of macOS's archives, of network storage, of Windows and of file systems
        {
            "__MACOSX",
            "@eaDir",
            "#recycle",
            "$RECYCLE.BIN",
            "System Volume Information",
            "lost+found",
        }
    )
)
MAGIC = {
    b"fLaC": "flac",
    b"RIFF": "wav",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\xff\xfb": "mp3",
    b"FORM": "aiff",
}


def is_system(name: str) -> bool:
    """Return whether a name is hidden or a system's own (".DS_Store", "._a.wav", "@eaDir")."""
    return name.startswith(".") or name in SYSTEM


def audio_files(folder: Path, suffixes: Container[str] = audio_headers.SUFFIXES) -> Iterator[Path]:
    """Yield the audio files below `folder` in a fixed order.

    Linked folders are followed, each once. Hidden files and folders and a system's own are skipped,
    and counted in one line of the log.
    """
    seen: set[str] = set()
    skipped: list[Path] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)  # a link to a folder above would otherwise never end
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        skipped += [Path(root, name) for name in sorted(folders) if is_system(name)]
        folders[:] = sorted(name for name in folders if not is_system(name))
        for file in (Path(root, name) for name in sorted(names)):
            if file.suffix.lower() in suffixes:
                if is_system(file.name):
                    skipped.append(file)
                else:
                    yield file
    _log(folder, skipped)


def made_by_people(paths: Iterable[Path], root: Path) -> list[Path]:
    """Return the paths below `root` in order, without those that audio_files() would skip."""
    files: list[Path] = []
    skipped: list[Path] = []
    for path in sorted(paths):
        system = any(map(is_system, path.relative_to(root).parts))
        (skipped if system else files).append(path)
    _log(root, skipped)
    return files


def _log(folder: Path, skipped: list[Path]) -> None:
    if skipped:
        LOGGER.info(
            "%s: skipping %d hidden or system files and folders, the first: %s",
            folder,
            len(skipped),
            skipped[0].relative_to(folder),
        )


def put_audio(path: Path, content: bytes, corpus: Path) -> None:
    """Write audio of a corpus that is being prepared atomically, unless the file holds it already.

    An interrupted prepare continues so, and a finished corpus is never changed.

    Args:
        path: The file.
        content: Bytes of the file.
        corpus: Folder of the corpus.

    Raises:
        CorpusError: If the folder holds a finished corpus without this very file.
        OSError: If the file cannot be written (for example, disk full).
    """
    if path.is_file() and path.read_bytes() == content:
        return
    if (corpus / "corpus.json").exists():
        how = "is another one" if path.exists() else "is missing"
        raise CorpusError(
            f"{corpus}: holds another corpus, or has lost its audio ({path} {how}); choose another "
            "--out"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write(content)


def keep_audio(folder: Path, name: str, content: bytes) -> Path:
    """Write audio into a folder atomically, and return its file."""
    suffix = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "wav")
    # names may be alike once they are a file's: the digest keeps their audio apart
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = (folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{digest}.{suffix}").absolute()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(content)
    return path
