"""Answers: the predictions of a system on the test split, one per line of a hypotheses file."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

# (N, 4): substitutions, deletions, insertions, reference tokens of each answer
Counts = npt.NDArray[np.int64]
WITH_LM = "+lm"  # ends the name of a metric whose hypotheses are decoded with a language model


class Answer(TypedDict):
    """One answer of the test split.

    `labels` are those of the utterance (fold, query, recording ...). `values` are numbers that were
    measured on it, by name; one that could not be measured is not there. The four numbers are the
    edit counts of the main metric, if it is a ratio of sums.
    """

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    labels: NotRequired[dict[str, str]]
    values: NotRequired[dict[str, float]]
    substitutions: NotRequired[int]
    deletions: NotRequired[int]
    insertions: NotRequired[int]
    tokens: NotRequired[int]
    variants: NotRequired[dict[str, str]]  # hypotheses by other ways to decode: best_variant.py
    with_lm: NotRequired[str]  # decoded with a language model
    with_lm_reference: NotRequired[str]  # only in old records with pronunciations=all


def pair(
    references: Sequence[str], hypotheses: Sequence[str], speakers: Sequence[str] | None = None
) -> list[Answer]:
    """Return answers with the ids "0", "1", ... from parallel lists."""
    names: Sequence[str | None] = speakers or [None for _ in references]
    return [
        {"id": str(number), "speaker": speaker, "reference": reference, "hypothesis": hypothesis}
        for number, (speaker, reference, hypothesis) in enumerate(
            zip(names, references, hypotheses, strict=True)
        )
    ]


def decoded(answers: Sequence[Answer], metric: str) -> Sequence[Answer]:
    """Return the answers that a metric of this name is computed from.

    For `<metric>+lm`, the hypotheses are those decoded with a language model.
    """
    return with_lm(answers) if metric.endswith(WITH_LM) else answers


def with_lm(answers: Sequence[Answer]) -> list[Answer]:
    """Return answers whose hypotheses are those decoded with a language model."""
    swapped: list[Answer] = []
    for answer in answers:
        reference = answer.get("with_lm_reference", answer["reference"])
        swapped.append({**answer, "reference": reference, "hypothesis": answer["with_lm"]})
    return swapped


def speakers_of(answers: Sequence[Answer]) -> list[str] | None:
    """Return the speaker of each answer, or None where not every answer has one."""
    speakers = [speaker for answer in answers if (speaker := answer["speaker"])]
    return speakers if len(speakers) == len(answers) else None


def has_counts(answers: Sequence[Answer]) -> bool:
    """Return whether every answer has its edit counts."""
    return bool(answers) and all("tokens" in answer for answer in answers)


def stored_counts(answers: Sequence[Answer]) -> Counts:
    """Return the edit counts (N, 4) that answers carry."""
    counts = [(a["substitutions"], a["deletions"], a["insertions"], a["tokens"]) for a in answers]
    return np.array(counts, dtype=np.int64).reshape(-1, 4)
