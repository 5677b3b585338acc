"""LibriSpeech as its archives unpack."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import pairs, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
UTTERANCES = {  # of each archive
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}
MD5 = {  # openslr.org/resources/12/md5sum.txt
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}


@dataclass(frozen=True, kw_only=True)
class LibriSpeech(Options):
    """Which parts the splits are."""

    train: Annotated[str, "Parts for training, separated by commas; 960 is all three."] = (
        "train-clean-100"
    )
    valid: Annotated[str, "Parts for validation, separated by commas."] = "dev-clean"
    test: Annotated[str, "Parts for the test, separated by commas."] = "test-clean"

    def splits(self) -> dict[str, list[str]]:
        """Return the parts of each split."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        if self.train == "960":
            named["train"] = ",".join(part for part in UTTERANCES if part.startswith("train"))
        return {
            split: [part.strip() for part in parts.split(",") if part.strip()]
            for split, parts in named.items()
        }

    def parts(self) -> Sequence[str]:
        """Return the parts of all splits."""
        return [part for parts in self.splits().values() for part in parts]

    def notes(self) -> Mapping[str, str]:
        """Return the parts of each split."""
        return {split: ", ".join(parts) for split, parts in self.splits().items()}


def read(given: Path, options: LibriSpeech) -> Iterator[Row]:
    """Yield the parts of train, valid and test, and other dev and test parts by their own names."""
    root = root_of(given, "LibriSpeech", "*-*/*/*/*.trans.txt")
    present = [part for part in UTTERANCES if (root / part).is_dir()]
    splits = options.splits()
    for split, parts in splits.items():
        for part in parts:
            if part not in UTTERANCES:
                raise CorpusError(f"LibriSpeech has no part '{part}'; {hint(part, UTTERANCES)}")
            if part not in present and split == "train":
                raise CorpusError(
                    f"{root}: no {part} in it; it holds {', '.join(present)}; --train names parts"
                )
            if part not in present:
                LOGGER.warning("%s: no %s in it", root, part)
    named = [part for parts in splits.values() for part in parts]
    if twice := {part for part in named if named.count(part) > 1}:
        raise ConfigError(f"LibriSpeech's part '{min(twice)}' is named twice; expected it once")
    # training parts that no split names stay outside
    others = {part: part for part in present if part.startswith(("dev-", "test-"))}
    roles = {part: split for split, parts in splits.items() for part in parts}
    for part, split in (roles | {p: p for p in others if p not in roles}).items():
        if part not in present:
            continue
        count = 0
        for row in chapters(root / part, "*/*", split):
            count += 1
            yield row
        if count < UTTERANCES[part]:
            LOGGER.warning("%s: %d of its %d utterances", root / part, count, UTTERANCES[part])


def chapters(folder: Path, pattern: str, split: str) -> Iterator[Row]:
    """Yield the utterances of speaker/chapter folders that match a pattern.

    A folder's texts are in its *.trans.txt.
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


SOURCE = Source(
    name="librispeech",
    about="Read English from audiobooks; SUPERB's corpus for phonemes and recognition",
    read=read,
    options=LibriSpeech,
    help="""train-clean-100, dev-clean and test-clean are SUPERB's splits. Other dev and test parts
    become splits of their own names.

    SUPERB's phonemes come from its two lexicon files (huggingface.co/datasets/s3prl/g2p): name both
    with --lexicon, librispeech-lexicon-200k-g2p.txt before librispeech-lexicon-allothers-g2p.txt.
    Without, CMUdict gives phones.""",
    examples=(
        "librispeech --download --out corpora/librispeech",
        "librispeech --from LibriSpeech --train 960 --out corpora/ls960",
    ),
    hours="960 h + 21 h",
    licence="CC BY 4.0",
    tasks="pretrain, asr, phoneme, speaker",
    homepage="https://www.openslr.org/12",
    citation="Panayotov et al., Librispeech: an ASR corpus based on public domain audio books, "
    "ICASSP 2015",
    archives={
        part: Archive(f"https://www.openslr.org/resources/12/{part}.tar.gz", f"md5:{checksum}")
        for part, checksum in MD5.items()
    },
)
