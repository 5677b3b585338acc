"""TIMIT: 39 phones, the core test set, no SA sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.sources.common import numbered_lines, root_of
from mt4ssl_bench.errors import CorpusError


def timit(given: Path) -> Iterator[Row]:
    """Yield TIMIT: training speakers, the usual 50 for validation, the core test's 24; 39 phones.

    No SA sentences.

    SA sentences are the two that every speaker reads; results are reported without them (Lee and
    Hon, 1989).
    """
    from lhotse.recipes.timit import get_phonemes, get_speakers

    root = root_of(given, "TIMIT", "[Tt][Rr][Aa][Ii][Nn]/*/*/*")
    fold, (dev, core) = get_phonemes(39), get_speakers()
    files = [file for file in audio_files(root) if not file.name.upper().startswith("SA")]
    done = set()
    for file in files:
        stem = file.name.split(".")[0]  # some copies hold SI1027.WAV and SI1027.WAV.wav
        part, speaker = file.relative_to(root).parts[0].lower(), file.parent.name.lower()
        role = (
            "train"
            if part == "train"
            else "valid"
            if speaker in dev
            else "test"
            if speaker in core
            else ""
        )
        name = f"{speaker}-{stem.lower()}"
        if not role or name in done:
            continue
        done.add(name)
        words = re.sub(r"[^A-Z' ]", " ", _beside(file, stem, "TXT")[0].split(maxsplit=2)[2].upper())
        phones = [fold[line.split()[2]] for line in _beside(file, stem, "PHN")]
        yield Row(
            id=name,
            path=file,
            speaker=speaker,
            language="en",
            text=" ".join(words.split()),
            phones=" ".join(phone for phone in phones if phone),
            split=role,
        )


def _beside(file: Path, stem: str, suffix: str) -> list[str]:
    """Return the lines of the TIMIT label file beside `file`, upper or lower case."""
    label = next(
        (
            p
            for p in (file.with_name(f"{stem}.{s}") for s in (suffix, suffix.lower()))
            if p.is_file()
        ),
        None,
    )
    if label is None:
        raise CorpusError(
            f"{file.with_name(f'{stem}.{suffix}')}: missing; is this half an archive?"
        )
    lines = [line for _, line in numbered_lines(label)]
    if not lines or any(len(line.split()) < 3 for line in lines):
        raise CorpusError(f"{label}: not TIMIT's labels: expected 'start end label' lines")
    return lines
