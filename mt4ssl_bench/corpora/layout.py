"""Folders and text files of published corpora, for their readers.

A reader yields a row for every utterance that its corpus states and opens no audio, so that missing
files are counted where audio is opened. Lhotse's recipes skip such utterances.
"""

from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import is_system
from mt4ssl_bench.errors import CorpusError


def root_of(given: Path, corpus: str, *wanted: str) -> Path:
    """Return `given` or a folder up to two levels below it: the first with a file of a pattern.

    Args:
        given: The folder that a user named.
        corpus: Name of the corpus, for messages.
        wanted: Patterns of files, one of which the folder must hold.

    Raises:
        CorpusError: If there is no such folder.
    """
    if not given.is_dir():
        raise CorpusError(
            f"{given}: no such folder; expected that of {corpus} after --from; --download fetches "
            "what is free"
        )
    for depth in (".", "*", "*/*"):
        for root in sorted(given.glob(depth)) if depth != "." else [given]:
            if any(map(is_system, root.relative_to(given).parts)):
                continue
            if root.is_dir() and any(any(root.glob(pattern)) for pattern in wanted):
                return root
    names = sorted(path.name for path in given.iterdir())[:5]
    raise CorpusError(
        f"{given}: not {corpus}; expected {' or '.join(wanted)} in it, "
        f"got {', '.join(names) if names else 'an empty folder'}"
    )


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not empty, with their numbers."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: missing; is this half an archive?") from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}: not UTF-8 (byte {error.start}); not as its authors published it"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (first word, rest) of each line."""
    for number, line in numbered_lines(file):
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise CorpusError(
                f"{file}, line {number}: '{key}' has no value; is this half an archive?"
            )
        yield key, rest[0]
