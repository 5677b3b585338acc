"""The Free Spoken Digit Dataset: 3,000 English digits."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.download import Archive
from mt4ssl_bench.corpora.layout import root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield recordings/<digit>_<speaker>_<number>.wav.

    Numbers 0-4 are the official test; 5-9 are used as valid here.
    """
    root = root_of(given, "the Free Spoken Digit Dataset", "recordings/*.wav")
    for file in made_by_people((root / "recordings").glob("*.wav"), root):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", file.stem)
        if not match:
            raise CorpusError(f"{file}: expected digit_speaker_number.wav, as 7_jackson_32.wav")
        digit, speaker, number = int(match[1]), match[2], int(match[3])
        split = "test" if number < 5 else "valid" if number < 10 else "train"
        yield Row(
            id=file.stem, path=file, speaker=speaker, language="en", text=DIGITS[digit], split=split
        )


SOURCE = Source(
    name="fsdd",
    about="Free Spoken Digit Dataset: 3,000 English digits by six speakers, 8 kHz",
    read=read,
    options=Options,
    help="The smallest real corpus here.",
    examples=("fsdd --download --out corpora/fsdd",),
    hours="0.4 h",
    licence="CC BY-SA 4.0",
    tasks="asr, phoneme, speaker",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    citation="Jackson et al., Free Spoken Digit Dataset v1.0.10, Zenodo 2020",
    archives={  # no checksum: GitHub makes the archive anew
        "fsdd": Archive(
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
        )
    },
)
