"""Error rates and accuracy with intervals: a rate is total errors over total tokens, not a mean of rates."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import jiwer
import numpy as np
import numpy.typing as npt

from mt4ssl_bench.errors import CorpusError

Counts = npt.NDArray[
    np.int64
]  # (N, 4): substitutions, deletions, insertions, reference tokens per utterance
Sums = npt.NDArray[Any]  # (..., C): counts summed over utterances, or rates of them

COVERAGE = 95.0  # per cent of the resamples that an interval holds
MIN_SPEAKERS = 5  # below this, resampling speakers says little about other speakers
CHUNK = 2**20  # draws held at once: about 25 MB


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a column of numbers means: its name, its unit and which end of it is good."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def label(self) -> str:
        """The heading of a column, for example "PER % ↓"."""
        return f"{self.name.upper()} {self.unit} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The two ends of a 95 % percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3)."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """One corpus-level number, in per cent, with its 95 % interval and the counts that it comes from.

    `errors` over `total` reference tokens for an error rate, wrong over all utterances for accuracy; there
    substitutions, deletions and insertions are 0. `low` and `high` resample utterances; `speaker_low` and
    `speaker_high` resample speakers, and are None without speakers or with fewer than MIN_SPEAKERS.
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


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="per", unit="%", higher_is_better=False),
        Metric(name="wer", unit="%", higher_is_better=False),
        Metric(name="cer", unit="%", higher_is_better=False),
        Metric(name="acc", unit="%", higher_is_better=True),
        Metric(
            name="per+lm", unit="%", higher_is_better=False
        ),  # the same, decoded with a language model
        Metric(name="wer+lm", unit="%", higher_is_better=False),
        Metric(name="cer+lm", unit="%", higher_is_better=False),
    )
}


def error_counts(
    references: Sequence[str], hypotheses: Sequence[str], *, by: Literal["words", "characters"]
) -> Counts:
    """Align each hypothesis with its reference by jiwer and count the edits of every utterance.

    Tokens are what spaces separate ("words": also phonemes), or single characters, with the spaces between
    words. Outer and repeated white space is dropped; nothing else is normalised. An empty hypothesis is all
    deletions, an empty reference (an utterance in which nobody speaks) all insertions.

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


def confusions(references: Sequence[str], hypotheses: Sequence[str]) -> Counter[tuple[str, str]]:
    """Count what was said for what: (reference, hypothesis) tokens, "" for what was inserted or left out."""
    found: Counter[tuple[str, str]] = Counter()
    output = jiwer.process_words(list(references), list(hypotheses))
    for wanted, said, chunks in zip(
        output.references, output.hypotheses, output.alignments, strict=True
    ):
        for chunk in (chunk for chunk in chunks if chunk.type != "equal"):
            a = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
            b = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
            found.update(zip_longest(a, b, fillvalue=""))
    return found


def rate(counts: Counts) -> float:
    """Return 100 * errors / reference tokens over all rows of (N, 4) counts, without an interval."""
    return float(_ratio(_pairs(counts).sum(axis=0)))


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
    value, utterances, by_speaker = _rate(_pairs(counts), speakers, seed, samples)
    return Score(
        value=value,
        low=utterances.low,
        high=utterances.high,
        higher_is_better=False,
        errors=substitutions + deletions + insertions,
        total=total,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        speaker_low=by_speaker.low if by_speaker else None,
        speaker_high=by_speaker.high if by_speaker else None,
    )


def accuracy(
    correct: Sequence[bool],
    *,
    speakers: Sequence[str] | None = None,
    seed: int = 0,
    samples: int = 1000,
) -> Score:
    """Return the percentage of utterances that are correct, with its intervals; arguments as in error_rate().

    Raises:
        CorpusError: there is no utterance.
    """
    hits = np.asarray(correct, dtype=np.int64)  # (N,)
    pairs = np.stack([hits, np.ones_like(hits)], axis=1)  # (N, 2)
    value, utterances, by_speaker = _rate(pairs, speakers, seed, samples)
    return Score(
        value=value,
        low=utterances.low,
        high=utterances.high,
        higher_is_better=True,
        errors=len(hits) - int(hits.sum()),
        total=len(hits),
        speaker_low=by_speaker.low if by_speaker else None,
        speaker_high=by_speaker.high if by_speaker else None,
    )


def paired_difference(
    counts_a: Counts, counts_b: Counts, *, seed: int = 0, samples: int = 1000
) -> tuple[float, float, float]:
    """Return (difference, low, high): rate a minus rate b in points, with its 95 % paired bootstrap interval.

    Both systems are resampled by the same utterances, so what makes an utterance hard for both cancels; an
    interval without 0 is a difference at that level (Bisani and Ney 2004, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation"). Rows of both (N, 4) arrays must be the same utterances; their
    reference tokens may differ, where an utterance has several references.

    Raises:
        CorpusError: there is no utterance.
    """
    assert len(counts_a) == len(counts_b), f"{len(counts_a)} utterances against {len(counts_b)}"
    _check_any(counts_a)
    both = np.concatenate(
        [_pairs(counts_a), _pairs(counts_b)], axis=1
    )  # (N, 4): errors, tokens of a, then of b

    def difference(sums: Sums) -> Sums:
        return _ratio(sums[..., :2]) - _ratio(sums[..., 2:])

    interval = _bootstrap(both, difference, seed, samples)
    return float(difference(both.sum(axis=0))), interval.low, interval.high


def _pairs(counts: Counts) -> Counts:
    """(N, 2): errors and reference tokens of (N, 4) counts."""
    return np.stack([counts[:, :3].sum(axis=1), counts[:, 3]], axis=1)


def _ratio(sums: Sums) -> Sums:
    """100 * errors / tokens of (..., 2) sums; NaN where no reference has a token."""
    tokens = np.where(sums[..., 1] > 0, sums[..., 1], np.nan)
    rates: Sums = 100.0 * sums[..., 0] / tokens
    return rates


def _check_any(counts: Counts) -> None:
    if not len(counts):
        raise CorpusError(
            "0 utterances to score, expected at least 1; check the manifest of the test split"
        )


def _rate(
    pairs: Counts, speakers: Sequence[str] | None, seed: int, samples: int
) -> tuple[float, Interval, Interval | None]:
    """100 * sum / sum of (N, 2) pairs, with its interval over utterances and, where possible, speakers."""
    _check_any(pairs)
    if not pairs[:, 1].any():
        raise CorpusError(
            f"all {len(pairs)} references are empty; expected at least one token to score"
        )
    value = float(_ratio(pairs.sum(axis=0)))
    over_utterances = _bootstrap(pairs, _ratio, seed, samples)
    if speakers is None:
        return value, over_utterances, None
    assert len(speakers) == len(pairs), f"{len(speakers)} speakers for {len(pairs)} utterances"
    names, owner = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < MIN_SPEAKERS:
        return value, over_utterances, None
    groups = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(groups, owner, pairs)
    return value, over_utterances, _bootstrap(groups, _ratio, seed, samples)


def _bootstrap(
    rows: Counts, statistic: Callable[[Sums], Sums], seed: int, samples: int
) -> Interval:
    """The percentile interval of a statistic of the sums (C,) of rows (N, C) that are drawn with replacement."""
    generator = np.random.default_rng(seed)
    number = len(rows)
    rates = np.empty(samples)
    step = max(1, CHUNK // number)
    for start in range(0, samples, step):
        draws = generator.integers(number, size=(min(step, samples - start), number))
        rates[start : start + step] = statistic(
            rows[draws].sum(axis=1)
        )  # (step, N, C) -> (step, C) -> (step,)
    tail = (100.0 - COVERAGE) / 2
    # a draw of silent utterances only has no rate
    low, high = np.nanpercentile(rates, [tail, 100.0 - tail])
    return Interval(low=float(low), high=float(high))
