"""Slot-type F1 and slot-value CER of texts with marked slots, as SUPERB's slot filling has them.

A slot is "B-type value E-type". Types and values are found as in s3prl/metric/slot_filling.py:
marks that stand alone are no slot, and marks within a hypothesized value are no part of it.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from mt4ssl_bench.results.answers import Answer, Counts
from mt4ssl_bench.results.intervals import Floats, Resampled
from mt4ssl_bench.results.metrics.error_rates import error_counts
from mt4ssl_bench.results.metrics.metric import Confusions, Fast, Metric, RatioOfSums

SLOT = re.compile(r"B-(\S+) (.+?) E-\1")
OPENING, CLOSING = re.compile(r"B-\S+ "), re.compile(r" E-\S+")
FAR = 100  # edits per character from which on a value is not taken for a reference (s3prl's)

Slots = dict[str, list[str]]  # values by type


def reference_slots(text: str) -> Slots:
    """Return the values of each slot type of a reference, in order."""
    slots: Slots = {}
    for kind, value in SLOT.findall(re.sub(" +", " ", text)):
        slots.setdefault(kind, []).append(value)
    return slots


def hypothesis_slots(text: str) -> Slots:
    """Return the values of each slot type of a hypothesis, without the marks within them."""
    return {
        kind: [CLOSING.sub("", OPENING.sub("", value)) for value in values]
        for kind, values in reference_slots(text).items()
    }


def type_f1(reference: Slots, hypothesis: Slots) -> float:
    """Return the F1 of the sets of slot types of one utterance; 1 if both are empty."""
    if not reference and not hypothesis:
        return 1.0
    return 2 * len(reference.keys() & hypothesis.keys()) / (len(reference) + len(hypothesis))


class MeanTypeF1(Fast):
    """The mean over utterances of their slot-type F1, in per cent."""

    def outcomes(self, answers: Sequence[Answer], /) -> Floats:
        """See Telling: the F1 of each utterance."""
        pairs = (
            (reference_slots(a["reference"]), hypothesis_slots(a["hypothesis"])) for a in answers
        )
        return 100.0 * np.array([type_f1(*pair) for pair in pairs])

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        values = self.outcomes(answers)

        def means(weights: Floats) -> Floats:
            result: Floats = (weights @ values) / weights.sum(axis=1)
            return result

        return means


def confused_types(answers: Sequence[Answer]) -> Confusions:
    """Return how often each slot type was left out of an utterance, and how often inserted."""
    counter: Confusions = Confusions()
    for answer in answers:
        reference = reference_slots(answer["reference"]).keys()
        hypothesis = hypothesis_slots(answer["hypothesis"]).keys()
        counter.update((kind, "") for kind in reference - hypothesis)
        counter.update(("", kind) for kind in hypothesis - reference)
    return counter


def value_counts(answers: Sequence[Answer]) -> Counts:
    """Return the character error counts (N, 4) of the slot values of each reference.

    A reference value is compared with the hypothesized value of its type that has the fewest
    edits, or with nothing. Values of types that the reference lacks cost nothing.
    """
    owners, values, candidates = [], [], []
    for number, answer in enumerate(answers):
        found = hypothesis_slots(answer["hypothesis"])
        for kind, of_kind in reference_slots(answer["reference"]).items():
            owners += [number] * len(of_kind)
            values += of_kind
            candidates += [found.get(kind) or [""]] * len(of_kind)
    flat = [(value, each) for value, own in zip(values, candidates, strict=True) for each in own]
    rows = iter(
        error_counts([value for value, _ in flat], [each for _, each in flat], by="characters")
    )
    counts = np.zeros((len(answers), 4), dtype=np.int64)
    for number, own in zip(owners, candidates, strict=True):
        best = min(itertools.islice(rows, len(own)), key=lambda row: row[:3].sum())
        far = best[:3].sum() >= FAR * best[3]
        counts[number] += (0, best[3], 0, best[3]) if far else best
    return counts


SLOT_TYPE_F1 = Metric(
    name="slot_type_f1",
    value=MeanTypeF1(),
    title="slot-type F1",
    higher_is_better=True,
    order=40,
    confusions=confused_types,
    tokens="slot types",
)
SLOT_VALUE_CER = Metric(
    name="slot_value_cer",
    value=RatioOfSums(counts=value_counts),
    title="slot-value CER",
    order=40,
    tokens="characters",
)
