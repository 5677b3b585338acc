"""Audio SNIPS: requests to an assistant with slots, spoken by 16 voices of Amazon Polly."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mt4ssl_bench.corpora.layout import numbered_lines, root_of
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import Options, Source
from mt4ssl_bench.data.cut import SLOTS
from mt4ssl_bench.errors import CorpusError

VOICES = {
    "train": "Ivy Joanna Joey Justin Kendra Kimberly Matthew Salli",
    "valid": "Aditi Amy Geraint Nicole",
    "test": "Brian Emma Raveena Russell",
}
TEXTS = "all.iob.snips.txt"
EXPECTED = "'<voice>-snips-<split>-<number> BOS words EOS', a tab, and 'O slots intent'"


def read(given: Path, _: Options) -> Iterator[Row]:
    """Yield the utterances of each split's own voices, as s3prl splits them."""
    root = root_of(given, "Audio SNIPS", TEXTS)
    split_of = {name: split for split, names in VOICES.items() for name in names.split()}
    for number, line in numbered_lines(root / TEXTS):
        said, *filled = line.split("\t")
        (name, *words), slots = said.split(" "), "".join(filled).split(" ")
        voice, *place = name.split("-")
        named = len(place) == 3 and place[0] == "snips" and place[1] in VOICES
        if not named or len(filled) != 1 or (words[:1], words[-1:]) != (["BOS"], ["EOS"]):
            raise CorpusError(f"{root / TEXTS}, line {number}: '{line[:60]}'; expected {EXPECTED}")
        if split_of.get(voice) == place[1]:
            text, kinds = paired(words[1:-1], slots[1:-1])
            yield Row(
                id=name,
                path=root / place[1] / f"{name}.wav",
                speaker=voice,
                language="en",
                text=text,
                labels={SLOTS: kinds, "intent": slots[-1]},
                split=place[1],
            )


def paired(words: Sequence[str], slots: Sequence[str]) -> tuple[str, str]:
    """Return the text and the slots of words and slots that were separated by single spaces.

    Some sentences have two spaces, between which an empty word has a slot of its own.
    """
    if len(words) == len(slots):
        pairs = [pair for pair in zip(words, slots, strict=True) if pair[0]]
        words, slots = [word for word, _ in pairs], [slot for _, slot in pairs]
    return " ".join(words), " ".join(slots)


SOURCE = Source(
    name="audio_snips",
    about="Audio SNIPS: requests with slots by 16 synthetic voices; SUPERB's corpus for slot "
    "filling",
    read=read,
    options=Options,
    help="""Reads s3prl's prepared folder: all.iob.snips.txt, and train, valid and test with
    <voice>-snips-<split>-<number>.wav. Each split has its own voices, as in SUPERB.""",
    examples=("audio_snips --from SNIPS --out corpora/audio_snips",),
    hours="110,272 utterances",
    licence="CC0 1.0 (sentences); audio synthesised with Amazon Polly",
    tasks="pretrain, asr, phoneme, slots",
    homepage="https://github.com/aws-samples/aws-lex-noisy-spoken-language-understanding",
    citation="Lai et al., Semi-supervised spoken language understanding via self-supervised "
    "speech and language model pretraining, ICASSP 2021",
    obtain="prepare it with s3prl's scripts for slot filling, and name the folder that holds "
    "all.iob.snips.txt",
    synthetic=True,
)
