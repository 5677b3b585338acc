"""Mixtures of two speakers, made here of LibriSpeech by the rule of Libri2Mix."""

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.console import progress
from mt4ssl_bench.corpora.mixing import (
    LOUDNESS,
    MIN_SECONDS,
    Mode,
    at_loudness,
    draw_pairs,
    loudness,
    mix,
    turns_of,
    write_flac,
)
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Source
from mt4ssl_bench.corpora.sources import librispeech
from mt4ssl_bench.data import audio, audio_headers
from mt4ssl_bench.data.alignment import read_rttm
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import ConfigError, CorpusError

LOGGER = logging.getLogger(__name__)
HELD_OUT = 5  # one speaker of so many of train is in valid, where LibriSpeech's part is missing
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Mixtures(librispeech.LibriSpeech):
    """How the mixtures are made."""

    rttm: Annotated[
        Path | None, "RTTM file of speech by utterance id: who speaks when (turns:speakers)."
    ] = None
    mode: Annotated[
        Mode, "Length: as the longer utterance (max, diarization), or the shorter (min, separation)"
    ] = "max"
    train_mixtures: Annotated[int, "Mixtures of train; 0 uses each utterance once."] = 0
    test_mixtures: Annotated[int, "Mixtures of valid and of test, at most."] = 3000
    seed: Annotated[int, "Seed of the pairs and their loudness."] = 72

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.train_mixtures < 0 or self.test_mixtures < 1:
            raise ConfigError(
                f"--train-mixtures {self.train_mixtures}, --test-mixtures {self.test_mixtures}: "
                "expected at least 0 and 1"
            )

    def notes(self) -> Mapping[str, str]:
        """Return how the mixtures are made, and the parts of each split."""
        low, high = LOUDNESS
        made = (
            f"mode {self.mode}, no noise, seed {self.seed}, utterances from {MIN_SECONDS:g} s, "
            f"sources at {low:g} to {high:g} LUFS"
        )
        return {**super().notes(), "mixtures": made}


def read(given: Path, options: Mixtures) -> Iterator[Row]:
    """Yield mixtures with the audio of their sources (other:s1, other:s2), all written here."""
    turns = read_rttm(options.rttm).segments if options.rttm else None
    for split, rows in _utterances(given, options, turns).items():
        draw = random.Random(f"{options.seed}/{split}")  # noqa: S311
        count = options.train_mixtures if split == "train" else options.test_mixtures
        pairs = list(draw_pairs(rows, count, draw))
        if len(pairs) < count and split == "train":
            LOGGER.warning("%s: %d mixtures of train, there are no other pairs", given, len(pairs))
        with progress(f"mixing {split}", len(pairs)) as advance:
            for pair in pairs:
                yield _mixture(pair, options, draw, turns)
                advance(1, "")


def _mixture(
    pair: tuple[Row, Row],
    options: Mixtures,
    draw: random.Random,
    turns: Mapping[str, list[Turn]] | None,
) -> Row:
    name, split = "_".join(row.id for row in pair), pair[0].split
    targets = [draw.uniform(*LOUDNESS) for _ in pair]
    sources = [
        at_loudness(audio.read_file(row.path), target)
        for row, target in zip(pair, targets, strict=True)
    ]
    signals = mix(sources, options.mode)
    files = {part: options.audio / split / part / f"{name}.flac" for part in ("mix", "s1", "s2")}
    for file, samples in zip(files.values(), signals, strict=True):
        write_flac(file, samples, options.audio.parent)
    row = Row(id=name, path=files.pop("mix"), split=split, language="en", others=files)
    if turns is None:
        return row
    speakers = {one.id: one.speaker for one in pair}
    spoken = turns_of(speakers, turns, len(signals[0]) / audio.RATE)
    return replace(row, turns={"speakers": spoken})


def _utterances(
    given: Path, options: Mixtures, turns: Mapping[str, list[Turn]] | None
) -> dict[str, list[Row]]:
    """Return the utterances that can be mixed, by split; no speaker is in two.

    Raises:
        CorpusError: If a split has fewer than two speakers, or shares one with another.
    """
    rows = [row for row in librispeech.read(given, options) if row.split in SPLITS]
    long = [row for row in rows if _seconds(row.path) >= MIN_SECONDS]
    known = [row for row in long if turns is None or row.id in turns]
    usable = list(_audible(known))
    if len(usable) < len(rows):
        LOGGER.info(
            "%s: leaving out %d of %d utterances: %d shorter than %g s, %d not in the RTTM file, "
            "%d unreadable, silent or too quiet to have a loudness",
            *(given, len(rows) - len(usable), len(rows), len(rows) - len(long), MIN_SECONDS),
            *(len(long) - len(known), len(known) - len(usable)),
        )
    if not any(row.split == "valid" for row in usable):
        own = sorted({row.speaker for row in usable if row.split == "train"})
        held = set(own[::HELD_OUT])
        LOGGER.info("%s: no valid in it; %d speakers of train are valid", given, len(held))
        usable = [replace(r, split="valid") if r.speaker in held else r for r in usable]
    splits = {split: [row for row in usable if row.split == split] for split in SPLITS}
    speakers = {split: {row.speaker for row in rows} for split, rows in splits.items()}
    for split, names in speakers.items():
        others = [name for other in SPLITS if other != split for name in names & speakers[other]]
        if len(names) < 2 or others:
            raise CorpusError(
                f"{given}: split '{split}' has {len(names)} speakers"
                f"{f', of whom {others[0]} is in another split, too' if others else ''}; expected "
                f"two or more, in no other split; --{split} names its parts"
            )
    return splits


def _audible(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows whose audio has a loudness, in their order."""

    def measure(row: Row) -> float:
        try:
            return loudness(audio.read_file(row.path))
        except CorpusError as error:  # counted with the silent ones
            LOGGER.warning("left out: %s", error)
            return -math.inf

    with progress("measuring loudness", len(rows)) as advance, ThreadPoolExecutor() as pool:
        for row, level in zip(rows, pool.map(measure, rows), strict=True):
            advance(1, "")
            if math.isfinite(level):
                yield row


def _seconds(path: Path) -> float:
    samples, rate, _ = audio_headers.probe(path)
    return samples / rate


SOURCE = Source(
    name="mixtures",
    about="Two-speaker mixtures made here of LibriSpeech, by the rule of Libri2Mix",
    read=read,
    options=Mixtures,
    help="""Pairs of utterances by different speakers are brought to a random loudness and added
    from their first samples on; no speaker is in two splits. <out>/audio gets the mixtures and
    their sources (other:s1, other:s2) as FLAC.

    With --rttm, each mixture has the speech segments of its utterances (turns:speakers), under
    the names of LibriSpeech's speakers: labels of the file are not read. SUPERB's are in
    github.com/s3prl/LibriMix, metadata/LibriSpeech.

    LibriMix differs in three points: its own lists of pairs, noise of WHAM! in mix_both, and 8 kHz
    versions.""",
    examples=(
        "mixtures --from LibriSpeech --rttm LibriSpeech.rttm --out corpora/mixtures",
        "mixtures --from LibriSpeech --mode min --out corpora/separation",
    ),
    licence="CC BY 4.0",
    tasks="diarization (with --rttm), separation",
    homepage="https://github.com/JorisCos/LibriMix",
    obtain="download LibriSpeech (openslr.org/12), unpack it and name its folder",
    citation="Cosentino et al., LibriMix: an open-source dataset for generalizable speech "
    "separation, 2020",
    texts=False,
)
