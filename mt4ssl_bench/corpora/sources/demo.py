"""The demo corpus: sentences spoken by eSpeak NG (GPL-3+), of which each voice says its share."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mt4ssl_bench.corpora.espeak import VOICES, Split
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.corpora.source import NOTHING, Options, Source
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.corpora.speak import GAIN_DB, NOISE, PAUSE, PEAK, PHONES, Spoken, draw
from mt4ssl_bench.corpora.speak import speak as speak_plan
from mt4ssl_bench.data.alignment import read_alignment
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.errors import BenchError

VERSION = 1  # of the sound that a plan makes; raise it when the same plan would sound different
TAKES = 2  # voices that speak each sentence
SID_TEST, SID_VALID, SID_CYCLE = {1, 8, 14}, {2, 9, 15}, 20  # 15 % each; all splits in three turns

SHARES: dict[Split, float] = {"test": 0.2, "valid": 0.1, "train": 0.7}  # of the sentences


@dataclass(frozen=True)
class Utterance:
    """One line of the manifest before it is spoken."""

    id: str  # speaker-sentence, for example s03-0127
    speaker: str
    sentence: str  # as written, with punctuation
    split: Split  # disjoint by speaker and by sentence
    sid_split: Split  # for telling the speakers apart: each speaker is in all three

    @property
    def text(self) -> str:
        """The transcript: upper case, without punctuation except the apostrophe."""
        return "".join(c for c in self.sentence if c.isalpha() or c in " '").upper()


def read_sentences() -> list[str]:
    """Read the sentences, as written; their number, from 0, is part of an utterance's id."""
    return (
        (resources.files("mt4ssl_bench.corpora.sources") / "demo_sentences.txt")
        .read_text(encoding="ascii")
        .splitlines()
    )


def build_plan(limit: int | None = None) -> list[Utterance]:
    """Return who says what, the voices taking turns; a `limit` keeps the first so many.

    VOICES says which split a speaker belongs to, SHARES divides the sentences, and each of these is
    spoken by TAKES voices of its split. Raises BenchError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise BenchError(f"demo limit {limit}: expected at least 1 utterance")
    sentences, turns = read_sentences(), []
    for speaker, numbers in _share_out(len(sentences)).items():
        name, split = f"s{speaker:02d}", VOICES[speaker - 1].split
        for turn, (_, number) in enumerate(sorted((draw("turn", name, n), n) for n in numbers)):
            made = Utterance(
                f"{name}-{number:04d}", name, sentences[number], split, _sid_split(turn)
            )
            turns.append((turn, speaker, made))
    return [made for _, _, made in sorted(turns, key=lambda item: item[:2])][:limit]


def _share_out(count: int) -> dict[int, list[int]]:
    """Return speaker (from 1) -> the sentences (from 0) that it speaks."""
    said: dict[int, list[int]] = {speaker: [] for speaker in range(1, len(VOICES) + 1)}
    order, begin, shares = (
        sorted(range(count), key=lambda number: draw("sentence", number)),
        0,
        0.0,
    )
    for split, share in SHARES.items():
        shares += share
        end = round(shares * count)
        own = [speaker for speaker in said if VOICES[speaker - 1].split == split]
        for i, number in enumerate(order[begin:end]):
            shift = 1 + i // len(own) % (
                len(own) - 1
            )  # others meet each round; no voice is drawn twice
            for take in range(TAKES):
                said[own[(i + take * shift) % len(own)]].append(number)
        begin = end
    return said


def _sid_split(turn: int) -> Split:
    place = turn % SID_CYCLE
    return "test" if place in SID_TEST else "valid" if place in SID_VALID else "train"


def plan_digest(plan: Sequence[Utterance]) -> str:
    """Return the digest of everything that decides what is spoken and how."""
    settings = (VERSION, RATE, PEAK, GAIN_DB, NOISE, PAUSE, VOICES, tuple(plan))
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def speak(out: Path, *, limit: int | None = None) -> Path:
    """Make the demo corpus in `out`, or find it made, and return its manifest.

    Args:
        out: Folder of the corpus, created if needed.
        limit: Only the first so many utterances of the plan.

    Raises:
        BenchError: Without the [demo] extra, or if eSpeak NG fails.
        CorpusError: If `out` has another corpus.
    """
    plan = build_plan(limit)
    spoken = [
        Spoken(
            id=made.id,
            voice=int(made.speaker[1:]) - 1,
            sentence=made.sentence,
            cells={"text": made.text, "split": made.split, "sid_split": made.sid_split},
        )
        for made in plan
    ]
    return speak_plan(out, spoken, digest=plan_digest(plan), title="prepare demo")


def read(out: Path, _: Options) -> Iterator[Row]:
    """Yield the demo corpus, spoken into `out` unless it is there."""
    manifest = speak(out)
    phones = manifest.with_name(PHONES)
    yield from read_table(manifest, {"phones": read_alignment(phones)} if phones.exists() else None)


SOURCE = Source(
    name="demo",
    about="Synthetic English speech (extra: demo), to check the code, not models",
    read=read,
    options=Options,
    takes=NOTHING,
    help="""30 minutes with transcripts, phonemes and 16 speakers. Needs the [demo] extra (eSpeak
    NG, GPL-3+). Scores on it check the code; they are not a speech benchmark.""",
    examples=("demo --out corpora/demo",),
    hours="0.5 h",
    licence="MIT (sentences); audio synthesised with eSpeak NG",
    tasks="pretrain, asr, phoneme, speaker, abx",
    phones_from="manifest",
    strict=True,
    synthetic=True,
)
