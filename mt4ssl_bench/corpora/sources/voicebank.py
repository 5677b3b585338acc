"""VoiceBank-DEMAND: read sentences with and without added noise."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.layout import root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError

PARTS = {"train": "trainset_28spk_wav", "test": "testset_wav"}
RATES = ("_16k", "")  # resampled folders are preferred to the published 48 kHz
VALID = ("p226", "p287")  # SUPERB's validation speakers, of the training part


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield the sentences of both parts; one that lacks a file is counted as missing."""
    root = root_of(given, "VoiceBank-DEMAND", "noisy_trainset_28spk_wav*")
    for split, part in PARTS.items():
        noisy, clean = _folders(root, part)
        files = [
            file for place in (noisy, clean) for file in made_by_people(place.glob("*.wav"), place)
        ]
        for name in sorted({file.name for file in files}):
            match = re.fullmatch(r"(p\d+)_\d+\.wav", name)
            if not match:
                raise CorpusError(
                    f"{noisy}: '{name}'; expected <speaker>_<number>.wav, for example p226_001.wav"
                )
            speaker = match[1]
            yield Row(
                id=Path(name).stem,
                path=noisy / name,
                speaker=speaker,
                language="en",
                others={"clean": clean / name},
                split="valid" if split == "train" and speaker in VALID else split,
            )


def _folders(root: Path, part: str) -> tuple[Path, Path]:
    """Return the folders of noisy and clean speech of a part, both of one sample rate."""
    for rate in RATES:
        noisy, clean = (root / f"{kind}_{part}{rate}" for kind in ("noisy", "clean"))
        if noisy.is_dir() and clean.is_dir():
            return noisy, clean
    raise CorpusError(
        f"{root}: no clean_{part} beside noisy_{part}; expected both, or both with _16k; is one of "
        "the four archives not unpacked?"
    )


SOURCE = Source(
    name="voicebank",
    about="Read sentences with added noise; SUPERB's corpus for speech enhancement",
    read=read,
    options=Options,
    help="""Noisy speech is the audio, clean speech is other:clean. The speakers p226 and p287 of
    the training part are the validation split, as in SUPERB.

    Folders that end in _16k are preferred. Others are resampled when they are read.""",
    examples=("voicebank --from VoiceBank-DEMAND --out corpora/voicebank",),
    hours="9.4 h + 0.6 h",
    licence="CC BY 4.0",
    tasks="speaker, enhancement",
    homepage="https://datashare.ed.ac.uk/handle/10283/2791",
    citation="Valentini-Botinhao et al., Investigating RNN-based speech enhancement methods for "
    "noise-robust text-to-speech, SSW 2016",
    obtain="download the wav archives of clean and noisy speech (28 speakers, and test) from its "
    "page, and unpack them into one folder",
    texts=False,
)
