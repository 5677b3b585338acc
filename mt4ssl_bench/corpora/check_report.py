"""What a check found: kinds of defect, their counts and examples.

A report reads the same on screen and as JSON.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict, cast

from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
EXAMPLES = 5  # named of each kind

Severity = Literal["error", "warning", "note"]
Compared = Literal["bytes", "samples"]  # by what duplicates and leaks are found

KINDS: dict[str, tuple[Severity, str]] = {
    # files
    "missing": ("error", "audio files that are not there"),
    "unreadable": ("error", "files that cannot be opened as audio"),
    "duration": ("error", "files that last other than the manifest says"),
    "format": ("error", "files whose sample rate or channels are not the manifest's"),
    "truncated": ("error", "files that hold less audio than their header states"),
    "longer": ("error", "files that hold more audio than is read of them"),
    "unfinished": ("error", "files whose header was never closed"),
    "outside": ("error", "utterances that reach beyond their file"),
    "changed": ("error", "files whose bytes changed since the corpus was prepared"),
    "low_rate": ("warning", "utterances recorded below 16 kHz: nothing above half their rate"),
    "mixed_rates": ("warning", "sample rates in one corpus: models can tell them apart"),
    "odd_rate": ("warning", "utterances whose sample rate fits 16 kHz badly: slowly resampled"),
    "channels": ("warning", "utterances of several channels: their average is used"),
    "short": ("warning", "utterances under 0.1 s"),
    "long": ("warning", "utterances over 60 s: 'mt4ssl-bench segment' cuts them"),
    # samples
    "not_finite": ("error", "files that hold NaN or infinite samples"),
    "silent": ("error", "files of digital silence"),
    "dropout": ("warning", "files with half a second and more of digital silence inside"),
    "clipped": ("warning", "clipped files: more than 0.1 % of the samples at full scale"),
    "quiet": ("warning", "files under -60 dB of full scale"),
    "offset": ("warning", "files with a constant offset over 5 % of full scale"),
    "dead_channel": ("warning", "files with a silent channel beside one that is not"),
    # identity
    "duplicate_id": ("error", "ids that stand more than once"),
    "duplicate": ("warning", "utterances with the audio of another one of their split"),
    "leak": ("error", "utterances whose audio, or a part of it, is in training and in evaluation"),
    "leak_speaker": (
        "warning",
        "evaluation speakers who are in training, too (ASR, PR: seen speakers)",
    ),
    "unheard_speaker": (
        "error",
        "evaluation speakers without a training utterance: none can be identified",
    ),
    "single_speaker": ("note", "speakers with one utterance"),
    "similar_speakers": ("warning", "speakers whose names differ only in case or spaces"),
    # texts
    "no_text": ("error", "utterances without text in a corpus that has texts"),
    "no_phones": ("error", "utterances without phones in a corpus that has phones"),
    "no_speaker": ("error", "utterances without speaker in a corpus that has speakers"),
    "no_speech": ("note", "utterances in which nobody speaks: recognized words are insertions"),
    "garbled": (
        "warning",
        "texts with control or replacement characters, or UTF-8 read as Latin-1",
    ),
    "not_nfc": ("warning", "texts whose accents are separate characters (not Unicode NFC)"),
    "look_alikes": (
        "warning",
        "texts with typographic apostrophes, or with characters that NFKC normalization changes",
    ),
    "quoted": (
        "warning",
        "texts in quotation marks: write the table without quoting, if that is where they are from",
    ),
    "digits": ("warning", "texts with digits: how they are spoken is not written"),
    "markup": ("warning", "texts with brackets or tags"),
    "punctuation": ("warning", "texts with punctuation, which counts as errors"),
    "new_characters": ("warning", "evaluation characters that training never has"),
    "new_phones": ("warning", "evaluation phones that training never has"),
    "too_fast": (
        "warning",
        "utterances with more letters or phones than CTC has frames (50 a second)",
    ),
    "too_slow": ("warning", "utterances with under one letter in two seconds: is this their text?"),
    "same_text": ("note", "evaluation texts that are in training, too"),
    # labels, turns, other audio and lists
    "gap": ("error", "utterances without a label, turns or other audio that the corpus has"),
    "new_label": ("warning", "utterances with a label that training never has"),
    "train_label": ("note", "utterances with a label that only training has"),
    "turn_order": ("error", "utterances with a turn that ends before it starts"),
    "turn_outside": ("error", "utterances with a turn that reaches beyond them"),
    "slots": ("error", "utterances with more or fewer slots than words"),
    "other": ("error", "utterances with other audio of unequal length or sample rate"),
    "list": ("error", "lists that are missing or damaged"),
    "unknown_id": ("error", "rows of lists that name no utterance of the corpus"),
    # splits
    "no_split": ("note", "splits missing of train, valid and test"),
    "no_sid_split": (
        "error",
        "splits missing of sid_train, sid_valid and sid_test: SID takes all of them or none",
    ),
}


class LabelFacts(TypedDict):
    """The classes of a label; the largest and the smallest with their share of the utterances.

    Balance is the entropy of the classes over that of equal ones: 1 if all are equally frequent.
    """

    classes: int
    largest: tuple[str, float]
    smallest: tuple[str, float]
    balance: float


class TurnFacts(TypedDict):
    """The turns of a tier."""

    turns: int
    labels: int
    hours: float


class SplitFacts(TypedDict):
    """What a split holds; labels and turns where the corpus has some."""

    utterances: int
    hours: float
    speakers: int
    sample_rates: dict[str, int]
    labels: NotRequired[dict[str, LabelFacts]]
    turns: NotRequired[dict[str, TurnFacts]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of defect in one split ("" for the corpus): how often, and a few names."""

    kind: str
    split: str
    count: int
    examples: list[str]

    @property
    def severity(self) -> Severity:
        """Return error, warning or note."""
        return KINDS[self.kind][0]

    @property
    def about(self) -> str:
        """Return what the kind means."""
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        where = f"{self.split}: " if self.split else ""
        examples = "; ".join(self.examples)
        return f"{where}{self.count:,} {self.about} ({self.kind}), for example {examples}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a check found; the worst first."""

    splits: dict[str, SplitFacts]  # utterances, hours, speakers, sample rates
    compared: Compared = "bytes"
    findings: list[Finding] = field(default_factory=list)

    @property
    def invalid(self) -> bool:
        """Whether something was found that would stop a run or invalidate a result."""
        return any(finding.severity == "error" for finding in self.findings)

    def counts(self) -> dict[str, int]:
        """Return how often each kind of error or warning was found."""
        counts: Counter[str] = Counter()
        for finding in self.findings:
            if finding.severity != "note":
                counts[finding.kind] += finding.count
        return dict(counts)

    def log(self) -> None:
        """Log errors and warnings, one line each."""
        for finding in self.findings:
            if finding.severity != "note":
                LOGGER.warning("%s: %s", finding.severity, finding)

    def to_json(self) -> dict[str, Json]:
        """Return the report as plain containers, counts first."""
        return {
            "invalid": self.invalid,
            "counts": self.counts(),
            "compared": self.compared,
            "splits": cast("Json", self.splits),
            "findings": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "split": finding.split,
                    "count": finding.count,
                    "about": finding.about,
                    "examples": finding.examples,
                }
                for finding in self.findings
            ],
        }


class Collector:
    """Gathers findings: any number of defects, EXAMPLES of each kind and split."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, kind: str, split: str, example: str, *, count: int = 1) -> None:
        """Count a defect; `kind` is one of KINDS."""
        assert kind in KINDS, kind
        self._counts[kind, split] += count
        named = self._examples.setdefault((kind, split), [])
        if len(named) < EXAMPLES:
            named.append(example)

    def report(self, splits: Mapping[str, SplitFacts], compared: Compared) -> Report:
        """Return all that was added, errors first, then as KINDS has them."""
        ranks = {"error": 0, "warning": 1, "note": 2}
        places = {kind: place for place, kind in enumerate(KINDS)}
        found = [
            Finding(
                kind=kind,
                split=split,
                count=count,
                examples=self._examples[kind, split],
            )
            for (kind, split), count in self._counts.items()
        ]
        found.sort(
            key=lambda finding: (ranks[finding.severity], places[finding.kind], finding.split)
        )
        return Report(
            splits=dict(splits),
            findings=found,
            compared=compared,
        )
