"""Libri2Mix as LibriMix's scripts write it, or as the Kaldi folders of s3prl's diarization."""

import csv
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.layout import root_of
from mt4ssl_bench.corpora.mixing import turns_of, within
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.corpora.sources.kaldi import read_pairs, read_recordings
from mt4ssl_bench.data.alignment import read_rttm
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.errors import ConfigError, CorpusError

COLUMNS = {"mixture_ID", "length"}  # that are read of LibriMix's metadata
# <mode>/<part>/<mixture>/<file>, the folders of a recording
LIBRIMIX = re.compile(r"/(max|min)/[^/]+/(mix_both|mix_clean|mix_single)/[^/]+$")
Segments = Mapping[str, Sequence[Turn]]


@dataclass(frozen=True, kw_only=True)
class Libri2Mix(Options):
    """Which of the mixtures; the defaults are SUPERB's for diarization."""

    mode: Annotated[
        Literal["max", "min"], "Length: max for diarization, min for separation (SUPERB)."
    ] = "max"
    mixture: Annotated[
        Literal["mix_both", "mix_clean", "mix_single"],
        "What is mixed: mix_both for diarization, mix_clean for separation (SUPERB).",
    ] = "mix_both"
    train: Annotated[Literal["train-100", "train-360"], "Training part."] = "train-100"
    dev: Annotated[
        int, "Mixtures of dev, drawn as s3prl does for separation (1000 of 3000); 0 is all."
    ] = 0
    rttm: Annotated[
        Path | None,
        "RTTM file, or folder of them: speech by LibriSpeech utterance or by mixture; it gives "
        "turns:speakers. s3prl's: LibriMix/metadata/LibriSpeech.",
    ] = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.dev < 0:
            raise ConfigError(f"--dev {self.dev}: expected 0 or more")

    def notes(self) -> Mapping[str, str]:
        """Return which mixtures these are."""
        return {"mixtures": f"{self.mode} {self.mixture} {self.train}, dev {self.dev or 'all'}"}


def read(given: Path, options: Libri2Mix) -> Iterator[Row]:
    """Yield the mixtures of train, valid (dev) and test.

    Raises:
        CorpusError: If the folder has neither layout, or lacks what was asked for.
    """
    root = root_of(given, "Libri2Mix", "wav16k/*/metadata/*.csv", "*/metadata/*.csv", "*/wav.scp")
    if any(root.glob("*/wav.scp")):
        for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
            yield from _kaldi(root / name, split, options)
        return
    segments = _segments(options.rttm) if options.rttm else None
    folder = (root / "wav16k" if (root / "wav16k").is_dir() else root) / options.mode
    for split, name in (("train", options.train), ("valid", "dev"), ("test", "test")):
        lengths = _lengths(folder / "metadata" / f"mixture_{name}_{options.mixture}.csv")
        names: Iterable[str] = lengths
        if split == "valid" and options.dev:
            drawn = sorted(lengths)
            random.Random(7).shuffle(drawn)  # noqa: S311 - s3prl's seed
            names = sorted(drawn[: options.dev])
        sources = [part for part in ("s1", "s2") if (folder / name / part).is_dir()]
        for mixture in names:
            file = f"{mixture}.wav"
            row = Row(
                id=mixture,
                # the metadata names the file as it was where the mixtures were made
                path=folder / name / options.mixture / file,
                split=split,
                language="en",
                others={part: folder / name / part / file for part in sources},
            )
            if segments is not None:
                speakers = 1 if options.mixture == "mix_single" else 2
                row = _with_turns(row, segments, lengths[mixture] / RATE, speakers)
            yield row


def _kaldi(folder: Path, split: str, options: Libri2Mix) -> Iterator[Row]:
    """Yield the recordings of a Kaldi folder with their turns, from its rttm.

    Raises:
        CorpusError: If recordings lie in LibriMix's folders of another mode or mixture.
    """
    segments, lasts = read_rttm(folder / "rttm").segments, read_pairs(folder / "reco2dur")
    for name, path in read_recordings(folder).items():
        place = LIBRIMIX.search(path.as_posix())
        if place and place.groups() != (options.mode, options.mixture):
            mode, mixture = place.groups()
            raise CorpusError(
                f"{folder / 'wav.scp'}: '{name}' is of {mode} {mixture}; expected {options.mode} "
                f"{options.mixture}, or --mode {mode} --mixture {mixture}"
            )
        row = Row(id=name, path=path, split=split, language="en")
        if name in segments:
            yield _with_turns(row, segments, float(lasts.get(name, "inf")), speakers=2)
        else:
            yield _without_turns(row, [name])


def _with_turns(row: Row, segments: Segments, lasts: float, speakers: int) -> Row:
    """Return the row with the turns of its mixture within `lasts` seconds.

    An RTTM by mixture states the speakers of each, and one that states too few is unusable: it may
    be of a voice activity detector. In one by utterance, each utterance is of one speaker, with
    whose number its id begins; of mix_single, only the first one is in the audio.

    Args:
        row: The mixture, named by its utterances: 84-121550-0000_1993-147149-0002.
        segments: Speech by mixture or by utterance.
        lasts: Length of the mixture.
        speakers: Number of speakers in the audio.
    """
    if row.id in segments:
        found = sorted({turn.label for turn in segments[row.id]})
        if len(found) < speakers:
            details = f"RTTM with turns of {', '.join(found)} only; expected {speakers} speakers"
            return replace(row, unusable=("few_speakers", details))
        turns = within(segments[row.id], lasts)
    else:
        names = row.id.split("_")[: 1 if speakers == 1 else None]
        if unknown := [name for name in names if name not in segments]:
            return _without_turns(row, unknown)
        turns = turns_of({name: name.partition("-")[0] for name in names}, segments, lasts)
    return replace(row, turns={"speakers": turns}, silent=not turns)


def _without_turns(row: Row, unknown: Sequence[str]) -> Row:
    """Return the row as unusable: what the RTTM lacks is a gap, and no silence."""
    return replace(row, unusable=("no_turns:speakers", f"not in RTTM: {', '.join(unknown)}"))


def _lengths(file: Path) -> dict[str, int]:
    """Return the samples of each mixture of LibriMix's metadata."""
    if not file.is_file():
        found = sorted(path.name for path in file.parent.glob("*.csv"))
        raise CorpusError(
            f"{file}: missing; expected one of --mode, --mixture and --train that is there: "
            f"{', '.join(found) or 'none'}"
        )
    with file.open(encoding="utf-8", newline="") as opened:
        table = csv.DictReader(opened)
        if lacking := COLUMNS - set(table.fieldnames or ()):
            raise CorpusError(f"{file}: no column '{min(lacking)}'; not LibriMix's metadata")
        try:
            return {row["mixture_ID"]: int(float(row["length"])) for row in table}
        except (TypeError, ValueError):
            raise CorpusError(
                f"{file}, line {table.line_num}: no number of samples as its length"
            ) from None


def _segments(path: Path) -> Segments:
    files = made_by_people(path.glob("*.rttm"), path) if path.is_dir() else [path]
    if not files:
        raise CorpusError(f"--rttm {path}: holds no .rttm file")
    return {name: turns for file in files for name, turns in read_rttm(file).segments.items()}


SOURCE = Source(
    name="libri2mix",
    about="Mixtures of two LibriSpeech speakers; SUPERB's corpus for diarization and separation",
    read=read,
    options=Libri2Mix,
    help="""Reads what LibriMix's scripts write (wav16k/<mode>/<part>/<mixture>, with s1 and s2 as
    other:s1 and other:s2), or Kaldi's folders train, dev and test with wav.scp and rttm, as s3prl
    prepares them for diarization.

    An RTTM by mixture names its two speakers. One by utterance only says when: its labels are not
    read, as each utterance is of the speaker with whose number its id begins. Turns that reach
    beyond a mixture, as in mode min, end with it.""",
    examples=(
        "libri2mix --from Libri2Mix --rttm LibriMix/metadata/LibriSpeech --out corpora/libri2mix",
        "libri2mix --from Libri2Mix --mode min --mixture mix_clean --dev 1000 --out corpora/ss",
    ),
    hours="71 h (max, train-100), 52 h (min)",
    licence="CC BY 4.0 (LibriSpeech), noise CC BY-NC 4.0 (WHAM!)",
    tasks="diarization, separation",
    homepage="https://github.com/JorisCos/LibriMix",
    citation="Cosentino et al., LibriMix: an open-source dataset for generalizable speech "
    "separation, 2020",
    obtain="make it with the scripts of github.com/s3prl/LibriMix",
    texts=False,
)
