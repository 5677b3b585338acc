"""TIMIT: 39 phones, the core test set, no SA sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from mt4ssl_bench.corpora.audio_files import audio_files
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.errors import CorpusError


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield the training speakers, the usual 50 for validation and the core test's 24; 39 phones.

    SA sentences are the two that every speaker reads; results are reported without them (Lee and
    Hon, 1989).
    """
    from lhotse.recipes.timit import get_phonemes, get_speakers

    root = root_of(given, "TIMIT", "[Tt][Rr][Aa][Ii][Nn]/*/*/*")
    fold, (dev, core) = get_phonemes(39), get_speakers()
    splits = dict.fromkeys(dev, "valid") | dict.fromkeys(core, "test")
    seen = set()
    for file in audio_files(root):
        stem = file.name.split(".")[0]  # some copies hold SI1027.WAV and SI1027.WAV.wav
        part, speaker = file.relative_to(root).parts[0].lower(), file.parent.name.lower()
        split = "train" if part == "train" else splits.get(speaker, "")
        name = f"{speaker}-{stem.lower()}"
        if not split or name in seen or stem.upper().startswith("SA"):
            continue
        seen.add(name)
        words = re.sub(r"[^A-Z' ]", " ", _beside(file, stem, "TXT")[0].split(maxsplit=2)[2].upper())
        phones = [fold[line.split()[2]] for line in _beside(file, stem, "PHN")]
        yield Row(
            id=name,
            path=file,
            speaker=speaker,
            language="en",
            text=" ".join(words.split()),
            phones=" ".join(phone for phone in phones if phone),
            split=split,
        )


def _beside(file: Path, stem: str, suffix: str) -> list[str]:
    """Return the lines of the TIMIT label file beside `file`, upper or lower case."""
    places = [file.with_name(f"{stem}.{case}") for case in (suffix, suffix.lower())]
    label = next((place for place in places if place.is_file()), None)
    if label is None:
        raise CorpusError(f"{places[0]}: missing; is this half an archive?")
    lines = [line for _, line in numbered_lines(label)]
    if not lines or any(len(line.split()) < 3 for line in lines):
        raise CorpusError(f"{label}: not TIMIT's labels; expected 'start end label' lines")
    return lines


SOURCE = Source(
    name="timit",
    about="Read American English with hand-made phone labels",
    read=read,
    options=Options,
    help="TIMIT's own phones are folded to 39. The usual 50 speakers are valid, the core test's 24 "
    "are test; SA sentences are left out.",
    examples=("timit --from TIMIT --out corpora/timit",),
    hours="5 h",
    licence="LDC (LDC93S1)",
    tasks="pretrain, asr, phoneme, speaker",
    homepage="https://catalog.ldc.upenn.edu/LDC93S1",
    citation="Garofolo et al., TIMIT acoustic-phonetic continuous speech corpus, LDC 1993",
    obtain="order it from the LDC and name the folder that holds TRAIN and TEST",
    phones_from="TIMIT's labels, 39 phones",
    notes={
        "left_out": "SA sentences; test speakers outside the 50 for validation and the core test's "
        "24"
    },
)
