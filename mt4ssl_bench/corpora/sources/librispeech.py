"""LibriSpeech as its archives unpack."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import pairs, root_of
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
LIBRISPEECH_PARTS = {  # and the utterances that their archives hold
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}


def librispeech(
    given: Path, *, train: Sequence[str], valid: Sequence[str], test: Sequence[str]
) -> Iterator[Row]:
    """Yield LibriSpeech: the parts named for train, valid and test, and any other part under its
    own name.
    """
    root = root_of(given, "LibriSpeech", "*-*/*/*/*.trans.txt")
    present = [name for name in LIBRISPEECH_PARTS if (root / name).is_dir()]
    for part in train:
        if part not in present:
            raise CorpusError(
                f"{root}: no {part} in it; it holds {', '.join(present)}; --train names parts"
            )
    for part in (*valid, *test):
        if part not in LIBRISPEECH_PARTS:
            raise CorpusError(f"LibriSpeech has no part '{part}'; {hint(part, LIBRISPEECH_PARTS)}")
        if part not in present:
            LOGGER.warning("%s: no %s in it", root, part)
    roles = (
        dict.fromkeys(train, "train") | dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    )
    others = [
        name for name in present if name.startswith(("dev-", "test-"))
    ]  # other training parts stay outside
    for part in [*roles, *(name for name in others if name not in roles)]:
        if part not in present:
            continue
        count = 0
        chapters = _chapters(root / part, "*/*", roles.get(part, part))
        for count, row in enumerate(chapters, start=1):  # noqa: B007
            yield row
        if count < LIBRISPEECH_PARTS.get(part, 0):
            LOGGER.warning(
                "%s: %d of its %d utterances", root / part, count, LIBRISPEECH_PARTS[part]
            )


def _chapters(folder: Path, pattern: str, split: str) -> Iterator[Row]:
    """Yield the utterances of speaker/chapter folders that match `pattern`, each with its
    *.trans.txt.
    """
    for transcript in made_by_people(folder.glob(f"{pattern}/*.trans.txt"), folder):
        chapter = transcript.parent
        for name, text in pairs(transcript):
            yield Row(
                id=name,
                path=chapter / f"{name}.flac",
                speaker=chapter.parent.name,
                language="en",
                text=text,
                split=split,
            )
