"""A folder of audio files, for pretraining."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source, Takes
from mt4ssl_bench.data.audio_headers import OTHER, SUFFIXES
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)


def read(folder: Path, _: Options) -> Iterator[Row]:
    """Yield every audio file below a folder; one that cannot be used is an unusable row.

    Raises:
        CorpusError: If there is no audio file.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    files = list(audio_files(folder, SUFFIXES | OTHER))
    if not any(file.suffix.lower() in SUFFIXES for file in files):
        raise CorpusError(
            f"{folder}: no audio file below it; expected {', '.join(sorted(SUFFIXES))}"
        )
    names = {file: "-".join(file.relative_to(folder).with_suffix("").parts) for file in files}
    unusable = {file: reason for file in files if (reason := _unusable(file))}
    # one.wav and one.mp3, or a/b.wav and a-b.wav, keep their paths as ids
    often = Counter(name for file, name in names.items() if file not in unusable)
    for file, name in names.items():
        place = file.relative_to(folder).as_posix()
        yield Row(
            id=_text(place) if file in unusable else name if often[name] == 1 else place,
            path=file.absolute(),
            split="train",
            unusable=unusable.get(file),
        )


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unusable(file: Path) -> tuple[str, str] | None:
    if file.suffix.lower() in OTHER:
        return "unreadable", f"{str(file)!a}: libsndfile reads no {file.suffix}"
    try:
        str(file).encode()
    except UnicodeEncodeError:  # on Linux a name may be any bytes
        return "unreadable", f"{str(file)!a}: its name is not UTF-8; rename it"
    return None


SOURCE = Source(
    name="folder",
    about="A folder of audio files, at any depth",
    read=read,
    options=Options,
    takes=Takes("path", "FOLDER", "Folder of audio files, at any depth."),
    help="Files that cannot be read are left out and counted; 2 % are held out for validation.",
    examples=("folder recordings/ --out corpora/recordings",),
    tasks="pretrain",
    texts=False,
    skips=True,
)
