"""The Free Spoken Digit Dataset: 3,000 English digits."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import made_by_people
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import root_of
from mt4ssl_bench.errors import CorpusError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


def fsdd(given: Path) -> Iterator[Row]:
    """Yield the Free Spoken Digit Dataset: recordings 0-4 are its official test, 5-9 serve as valid
    here.
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
