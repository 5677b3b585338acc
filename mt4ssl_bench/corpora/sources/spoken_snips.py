"""Sentences of SNIPS with slots, spoken by eSpeak NG: a small corpus of Audio SNIPS's kind."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mt4ssl_bench.corpora import speak
from mt4ssl_bench.corpora.espeak import VOICES
from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.corpora.sources.audio_snips import paired
from mt4ssl_bench.corpora.sources.table import LABEL, read_table
from mt4ssl_bench.data.alignment import read_alignment
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.cut import SLOTS
from mt4ssl_bench.errors import ConfigError, CorpusError

VERSION = 1  # of the sound that a plan makes
SPLITS = ("train", "valid", "test")
HEADER = ["u_id", "utterance", "slot-labels", "intent"]


@dataclass(frozen=True, kw_only=True)
class SpokenSnips(Options):
    """Options of the command."""

    train: Annotated[int, "Most sentences of the training split."] = 1200
    held_out: Annotated[int, "Most sentences of the validation and of the test split."] = 300

    def __post_init__(self) -> None:
        """Check the numbers."""
        if min(self.train, self.held_out) < 1:
            raise ConfigError(
                f"--train {self.train}, --held-out {self.held_out}: expected at least 1"
            )

    def notes(self) -> dict[str, str]:
        """See Options.notes."""
        return {"spoken_by": "eSpeak NG: synthetic speech, to check the code, not models"}


def read(given: Path, options: SpokenSnips) -> Iterator[Row]:
    """Yield the sentences, spoken into the corpus's folder unless they are there."""
    root = root_of(given, "SNIPS with slots", "train.tsv", "train")
    plan = [
        spoken
        for split in SPLITS
        for spoken in _split(root, split, options.train if split == "train" else options.held_out)
    ]
    sound = (speak.GAIN_DB, speak.NOISE, speak.PAUSE, speak.PEAK, RATE)
    digest = hashlib.sha256(repr((VERSION, sound, VOICES, plan)).encode()).hexdigest()[:16]
    out = options.audio.parent  # the corpus's folder: its table names audio/<speaker>/<id>.flac
    table = speak.speak(out, plan, digest=digest, title="prepare spoken_snips")
    yield from read_table(table, {"phones": read_alignment(table.with_name(speak.PHONES))})


def _split(root: Path, split: str, most: int) -> Iterator[speak.Spoken]:
    """Yield at most so many sentences of a split, drawn once for all; its voices take turns."""
    file = next((path for path in (root / f"{split}.tsv", root / split) if path.is_file()), None)
    if file is None:
        raise CorpusError(f"{root}: no {split}.tsv; expected it beside the other splits")
    (_, header), *lines = numbered_lines(file)
    if header.split("\t") != HEADER:
        columns = ", ".join(header.split("\t"))
        raise CorpusError(f"{file}: columns {columns}; expected {', '.join(HEADER)}")
    sentences = []
    for number, line in lines:
        name, *cells = line.split("\t")
        if len(cells) != 3:
            raise CorpusError(f"{file}, line {number}: {1 + len(cells)} columns; expected 4")
        sentences.append((name, *cells))
    sentences.sort(key=lambda sentence: speak.draw("sentence", sentence[0]))
    voices = itertools.cycle(n for n, voice in enumerate(VOICES) if voice.split == split)
    for voice, (name, sentence, slots, intent) in zip(voices, sentences[:most], strict=False):
        kinds = [slot.rpartition("/")[2] for slot in slots.split(" ")]
        text, filled = paired(sentence.split(" "), kinds)
        yield speak.Spoken(
            id=f"s{voice + 1:02d}-{name}",
            voice=voice,
            sentence=text,
            cells={
                "text": text,
                "split": split,
                f"{LABEL}{SLOTS}": filled,
                f"{LABEL}intent": intent,
            },
        )


SOURCE = Source(
    name="spoken_snips",
    about="SNIPS sentences with slots, synthetic speech (extra: demo), to check the code",
    read=read,
    options=SpokenSnips,
    help="""Reads sentences with slots (train.tsv, valid.tsv, test.tsv, also without .tsv) and has
    them spoken by eSpeak NG, with other voices in each split. Needs the [demo] extra (eSpeak NG,
    GPL-3+). The speech is synthetic, as Audio SNIPS is: scores on it check the code; they are not
    a speech benchmark.""",
    examples=("spoken_snips --from snips_nlu --out corpora/spoken_snips",),
    hours="2 h",
    licence="CC0 1.0 (sentences); audio synthesised with eSpeak NG",
    tasks="asr, phoneme, slots",
    homepage="https://github.com/aws-samples/aws-lex-noisy-spoken-language-understanding",
    citation="Coucke et al., Snips voice platform, 2018 (sentences)",
    obtain="clone its homepage's repository and name the folder that holds train, valid and test",
    strict=True,
    synthetic=True,
)
