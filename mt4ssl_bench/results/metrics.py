"""Error rates and accuracy with intervals: a rate is total errors over total tokens, not a mean of
rates.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import jiwer
import numpy as np

from mt4ssl_bench.results.intervals import Counts, Method, error_pairs, rate_intervals

Tokens = Literal["words", "characters", "answers"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column's name, unit and direction, and how errors are counted.

    Attributes:
        tokens: The reference tokens: "words" (what spaces separate, also phonemes), "characters",
            or "answers" (the whole utterance is one token). None for a metric that this version
            does not define: its numbers are shown, but cannot be counted again.
        with_lm: Whether the hypotheses are those decoded with a language model.
    """

    name: str
    unit: str = "%"
    higher_is_better: bool = False
    tokens: Tokens | None
    noun: str = ""  # of the tokens in headings; default: `tokens`
    with_lm: bool = False

    @property
    def label(self) -> str:
        """The heading of a column, for example "PER % ↓"."""
        return f"{self.name.upper()} {self.unit} {'↑' if self.higher_is_better else '↓'}"

    def counts(self, references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
        """Return the errors of each utterance, (N, 4) as error_counts() does, in the metric's
        tokens.
        """
        assert self.tokens is not None, f"metric {self.name} has no definition here"
        if self.tokens != "answers":
            return error_counts(references, hypotheses, by=self.tokens)
        wrong = [(int(a != b), 0, 0, 1) for a, b in zip(references, hypotheses, strict=True)]
        return np.array(wrong, dtype=np.int64).reshape(-1, 4)

    def score(
        self,
        references: Sequence[str],
        hypotheses: Sequence[str],
        *,
        speakers: Sequence[str] | None = None,
    ) -> "Score":
        """Return the score over all utterances; `speakers` as in error_rate()."""
        counts = self.counts(references, hypotheses)
        if self.higher_is_better:
            return accuracy((counts[:, 0] == 0).tolist(), speakers=speakers)
        return error_rate(counts, speakers=speakers)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One corpus-level number, in per cent, with its 95 % interval and the counts that it comes
    from.

    `errors` over `total` reference tokens for an error rate, wrong over all utterances for
    accuracy; there substitutions, deletions and insertions are 0. `low` and `high` resample
    utterances; `speaker_low` and `speaker_high` resample speakers, and are None without speakers or
    with fewer than MIN_SPEAKERS. Where all utterances (speakers) have the same rate, they are
    score_interval() over their number.
    """

    value: float
    low: float
    high: float
    higher_is_better: bool
    errors: int
    total: int
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    speaker_low: float | None = None
    speaker_high: float | None = None
    method: Method = "bootstrap"  # of low and high
    speaker_method: Method | None = None  # of speaker_low and speaker_high


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="per", tokens="words", noun="phonemes"),
        Metric(name="wer", tokens="words"),
        Metric(name="cer", tokens="characters"),
        Metric(name="acc", tokens="answers", higher_is_better=True),
        Metric(name="per+lm", tokens="words", noun="phonemes", with_lm=True),
        Metric(name="wer+lm", tokens="words", with_lm=True),
        Metric(name="cer+lm", tokens="characters", with_lm=True),
    )
}


def error_counts(
    references: Sequence[str], hypotheses: Sequence[str], *, by: Literal["words", "characters"]
) -> Counts:
    """Align each hypothesis with its reference by jiwer and count the edits of every utterance.

    Tokens are what spaces separate ("words": also phonemes), or single characters, with the spaces
    between words. Outer and repeated white space is dropped; nothing else is normalised. An empty
    hypothesis is all deletions, an empty reference (an utterance in which nobody speaks) all
    insertions.

    Returns:
        (N, 4) int64: substitutions, deletions, insertions, reference tokens.
    """
    assert len(references) == len(hypotheses), (
        f"{len(references)} references, {len(hypotheses)} hypotheses"
    )
    counts = np.zeros((len(references), 4), dtype=np.int64)
    if not len(references):
        return counts
    process = jiwer.process_words if by == "words" else jiwer.process_characters
    output = process(list(references), list(hypotheses))
    for row, tokens, chunks in zip(counts, output.references, output.alignments, strict=True):
        row[3] = len(tokens)
        for chunk in chunks:
            if chunk.type == "substitute":
                row[0] += chunk.ref_end_idx - chunk.ref_start_idx
            elif chunk.type == "delete":
                row[1] += chunk.ref_end_idx - chunk.ref_start_idx
            elif chunk.type == "insert":
                row[2] += chunk.hyp_end_idx - chunk.hyp_start_idx
    return counts


def confusions(
    references: Sequence[str], hypotheses: Sequence[str], *, by: Tokens = "words"
) -> Counter[tuple[str, str]]:
    """Count what was said for what: (reference, hypothesis) tokens, "" for what was inserted or
    left out.
    """
    found: Counter[tuple[str, str]] = Counter()
    if by == "answers":
        found.update(
            pair for pair in zip(references, hypotheses, strict=True) if len(set(pair)) > 1
        )
        return found
    process = jiwer.process_words if by == "words" else jiwer.process_characters
    output = process(list(references), list(hypotheses))
    for wanted, said, chunks in zip(
        output.references, output.hypotheses, output.alignments, strict=True
    ):
        for chunk in (chunk for chunk in chunks if chunk.type != "equal"):
            a = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
            b = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
            found.update(zip_longest(a, b, fillvalue=""))
    return found


def rate(counts: Counts) -> float:
    """Return 100 * errors / reference tokens over all rows of (N, 4) counts, without an
    interval.
    """
    errors, tokens = map(float, error_pairs(counts).sum(axis=0))
    return 100.0 * errors / tokens if tokens else math.nan


def error_rate(
    counts: Counts, *, speakers: Sequence[str] | None = None, seed: int = 0, samples: int = 1000
) -> Score:
    """Return 100 * errors / reference tokens over the whole corpus, with its intervals.

    Args:
        counts: (N, 4), from error_counts().
        speakers: who speaks each utterance, in the same order, or None.
        seed: of the bootstrap; the same seed gives the same interval.
        samples: bootstrap resamples.

    Raises:
        CorpusError: there is no utterance.
    """
    substitutions, deletions, insertions, total = (int(number) for number in counts.sum(axis=0))
    value, utterances, by_speaker = rate_intervals(error_pairs(counts), speakers, seed, samples)
    return Score(
        value=value,
        low=utterances.low,
        high=utterances.high,
        method=utterances.method,
        higher_is_better=False,
        errors=substitutions + deletions + insertions,
        total=total,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        speaker_low=by_speaker.low if by_speaker else None,
        speaker_high=by_speaker.high if by_speaker else None,
        speaker_method=by_speaker.method if by_speaker else None,
    )


def accuracy(
    correct: Sequence[bool],
    *,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    samples: int = 1000,
) -> Score:
    """Return the percentage of utterances that are correct, with its intervals.

    Arguments as in error_rate().

    Raises:
        CorpusError: there is no utterance.
    """
    hits = np.asarray(correct, dtype=np.int64)  # (N,)
    pairs = np.stack([hits, np.ones_like(hits)], axis=1)  # (N, 2)
    value, utterances, by_speaker = rate_intervals(pairs, speakers, seed, samples)
    return Score(
        value=value,
        low=utterances.low,
        high=utterances.high,
        method=utterances.method,
        higher_is_better=True,
        errors=len(hits) - int(hits.sum()),
        total=len(hits),
        speaker_low=by_speaker.low if by_speaker else None,
        speaker_high=by_speaker.high if by_speaker else None,
        speaker_method=by_speaker.method if by_speaker else None,
    )
