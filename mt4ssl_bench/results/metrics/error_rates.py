"""Phoneme, word and character error rates: total edits over total reference tokens, by jiwer.

Texts are not normalized. Outer white space is dropped; repeated spaces between words are one for
rates of words, and characters for rates of characters. An empty hypothesis is all deletions, an
empty reference (an utterance in which nobody speaks) all insertions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Literal

import jiwer
import numpy as np

from mt4ssl_bench.results.answers import Answer, Counts
from mt4ssl_bench.results.metrics.metric import Confusions, Metric, RatioOfSums

Tokens = Literal["words", "characters"]  # "words" are separated by spaces: phonemes, too
EDITS = ("substitute", "delete", "insert")


def error_counts(references: Sequence[str], hypotheses: Sequence[str], *, by: Tokens) -> Counts:
    """Align N hypotheses with their references and count the edits.

    Characters include the spaces between words.

    Returns:
        (N, 4): substitutions, deletions, insertions, reference tokens.
    """
    assert len(references) == len(hypotheses), (len(references), len(hypotheses))
    counts = np.zeros((len(references), 4), dtype=np.int64)
    if not len(references):
        return counts
    output = _align(references, hypotheses, by)
    for row, tokens, chunks in zip(counts, output.references, output.alignments, strict=True):
        row[3] = len(tokens)
        for chunk in (chunk for chunk in chunks if chunk.type != "equal"):
            deleted = chunk.ref_end_idx - chunk.ref_start_idx
            inserted = chunk.hyp_end_idx - chunk.hyp_start_idx
            row[EDITS.index(chunk.type)] += max(deleted, inserted)
    return counts


def rate(counts: Counts) -> float:
    """Return 100 * edits / reference tokens of counts (N, 4), NaN without any token."""
    edits, tokens = float(counts[:, :3].sum()), float(counts[:, 3].sum())
    return 100.0 * edits / tokens if tokens else math.nan


def answer_counts(answers: Sequence[Answer], by: Tokens) -> Counts:
    """Return error_counts() of answers."""
    return error_counts(*_texts(answers), by=by)


def confusions(answers: Sequence[Answer], by: Tokens = "words") -> Confusions:
    """Return how often each token was taken for another, "" for an inserted or deleted one."""
    output = _align(*_texts(answers), by)
    counter: Confusions = Counter()
    for reference, hypothesis, chunks in zip(
        output.references, output.hypotheses, output.alignments, strict=True
    ):
        for chunk in (chunk for chunk in chunks if chunk.type != "equal"):
            a = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            b = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            counter.update(zip_longest(a, b, fillvalue=""))
    return counter


def _texts(answers: Sequence[Answer]) -> tuple[list[str], list[str]]:
    return [a["reference"] for a in answers], [a["hypothesis"] for a in answers]


def _align(
    references: Sequence[str], hypotheses: Sequence[str], by: Tokens
) -> jiwer.WordOutput | jiwer.CharacterOutput:
    process = jiwer.process_words if by == "words" else jiwer.process_characters
    return process(list(references), list(hypotheses))


_WORDS = RatioOfSums(counts=partial(answer_counts, by="words"))
_CHARACTERS = RatioOfSums(counts=partial(answer_counts, by="characters"))
PER = Metric(name="per", value=_WORDS, order=10, confusions=confusions, tokens="phonemes")
WER = Metric(name="wer", value=_WORDS, order=20, confusions=confusions, tokens="words")
CER = Metric(
    name="cer",
    value=_CHARACTERS,
    order=20,
    confusions=partial(confusions, by="characters"),
    tokens="characters",
)
