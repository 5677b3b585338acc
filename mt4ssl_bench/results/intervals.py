"""95 % intervals of error rates and of their differences, by the bootstrap and where it has no
width.

A percentile bootstrap of units that all have the same rate has no width, which would claim
certainty. Such intervals come from a formula instead; Interval.method names it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mt4ssl_bench.errors import CorpusError

Counts = npt.NDArray[
    np.int64
]  # (N, 4): substitutions, deletions, insertions, reference tokens per utterance
Numbers = npt.NDArray[Any]


COVERAGE = 95.0  # per cent of the resamples that an interval holds
MIN_SPEAKERS = 5  # below this, resampling speakers says little about other speakers
CHUNK = 2**20  # draws held at once: about 25 MB
NO_WIDTH = 1e-9  # points: a narrower bootstrap interval comes of rounding only
Z = 1.959964  # the normal distribution's 97.5 % quantile
# a two-sided sign test of fewer differences cannot reach 5 %: 2 * 0.5**5 = 0.0625
MIN_DIFFERENT = 6


Method = Literal["bootstrap", "wilson", "poisson", "exact"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The two ends of a 95 % interval, and the method that gives them.

    "bootstrap": percentile bootstrap (Efron and Tibshirani 1993, section 13.3). "wilson" and
    "poisson": score_interval(). "exact": paired_difference() where all utterances differ equally.
    """

    low: float
    high: float
    method: Method = "bootstrap"


def score_interval(value: float, number: int) -> Interval:
    """Return the 95 % score interval of a rate that each of `number` units has.

    A unit (utterance, speaker) counts as one trial however many tokens it has, because the errors
    within a unit are not independent: the interval is wide, never too narrow. Up to 100 % it is
    Wilson's (1927, JASA 22; 3 of 3 right: [43.9, 100]). A rate above 100 %, which insertions can
    give, is no share; it gets the score interval of a Poisson mean: both solve
    (rate - x)**2 = Z**2 * variance(x) / number for x.
    """
    rate, share = value / 100, Z * Z / number
    if rate <= 1:
        middle, scale = rate + share / 2, 1 + share
        half = math.sqrt(share * rate * (1 - rate) + share * share / 4)
        low, high = (round(100 * (middle + sign * half) / scale, 9) + 0.0 for sign in (-1, 1))
        return Interval(low=low, high=high, method="wilson")  # rounded: 0 and 100 are exact
    half = math.sqrt(share * rate + share * share / 4)
    low, high = rate + share / 2 - half, rate + share / 2 + half
    return Interval(low=100 * low, high=100 * high, method="poisson")


def paired_difference(
    counts_a: Counts, counts_b: Counts, *, seed: int = 0, samples: int = 1000
) -> tuple[float, Interval]:
    """Return rate a minus rate b in points, with its 95 % paired bootstrap interval.

    Both systems are resampled by the same utterances, so what makes an utterance hard for both
    cancels; an interval without 0 is a difference at that level (Bisani and Ney 2004, "Bootstrap
    estimates for confidence intervals in ASR performance evaluation"). Rows of both (N, 4) arrays
    must be the same utterances; their reference tokens may differ, where an utterance has several
    references.

    Few data do not make a difference. Where all utterances differ equally (identical answers, or
    one utterance), the bootstrap has no width: the share of other utterances that could show
    anything is at most 1 - 0.025**(1/N) (Clopper and Pearson 1934), and the interval is as wide.
    Where fewer than MIN_DIFFERENT utterances differ, it holds 0, as an exact sign test would say.

    Raises:
        CorpusError: there is no utterance.
    """
    paired = _Paired([counts_a, counts_b], seed, samples)
    value, low, high, flat = (float(each[0]) for each in paired.differences(0, [1]))
    return value, Interval(low=low, high=high, method="exact" if flat else "bootstrap")


def beaten_by(counts: Sequence[Counts], *, seed: int = 0, samples: int = 1000) -> list[int]:
    """Return for each system how many others are better, by the verdicts of paired_difference().

    All pairs share one set of resamples, so 200 systems take seconds.

    Args:
        counts: (N, 4) error counts of each system on the same utterances in the same order.
        seed: of the bootstrap.
        samples: bootstrap resamples.
    """
    paired = _Paired(counts, seed, samples)
    better = np.zeros(len(counts), dtype=np.int64)
    for a in range(1, len(counts)):
        _, low, high, _ = paired.differences(a, range(a))  # of errors: above 0, a is worse
        better[a] += (low > 0).sum()
        better[:a] += high < 0
    return better.tolist()


class _Paired:
    """S systems on the same N utterances: their errors and tokens (S, N), and resampled rates."""

    def __init__(self, counts: Sequence[Counts], seed: int, samples: int) -> None:
        sizes = [len(each) for each in counts]
        assert len(set(sizes)) == 1, f"different numbers of utterances: {sizes}"
        pairs = np.stack([error_pairs(each) for each in counts], axis=1)  # (N, S, 2)
        _check_any(pairs)
        self.errors, self.tokens = pairs.transpose(2, 1, 0)
        self.rates = _ratio(pairs.sum(axis=0))  # (S,)
        sums = _resample(pairs.reshape(len(pairs), -1), seed, samples).reshape(samples, -1, 2)
        self.resampled = np.ascontiguousarray(_ratio(sums).T)  # (S, samples)

    def differences(self, a: int, others: Sequence[int]) -> tuple[Numbers, ...]:
        """Return the rate of `a` minus each other's, the interval's ends, and where it had no
        width.
        """
        value = self.rates[a] - self.rates[others]
        low, high = _percentiles(self.resampled[a] - self.resampled[others])
        flat = high - low < NO_WIDTH
        share = 1 - ((100 - COVERAGE) / 200) ** (1 / self.errors.shape[1])
        low = np.where(flat, value * (1 - share) - 100 * share, low)
        high = np.where(flat, value * (1 - share) + 100 * share, high)
        few = self._different(a, others) < MIN_DIFFERENT
        return (
            value,
            np.where(few, np.minimum(low, 0), low),
            np.where(few, np.maximum(high, 0), high),
            flat,
        )

    def _different(self, a: int, others: Sequence[int]) -> Numbers:
        """How many utterances have another error rate than in `a`.

        Also where they have no tokens.
        """
        errors, tokens = self.errors[others], self.tokens[others]
        rates = errors * self.tokens[a] != self.errors[a] * tokens
        differ = rates | ((tokens == self.tokens[a]) & (errors != self.errors[a]))
        number: Numbers = np.count_nonzero(differ, axis=1)
        return number


def error_pairs(counts: Counts) -> Counts:
    """Return errors and reference tokens (N, 2) of (N, 4) counts."""
    return np.stack([counts[:, :3].sum(axis=1), counts[:, 3]], axis=1)


def _ratio(sums: Numbers) -> Numbers:
    """100 * errors / tokens of (..., 2) sums."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates: Numbers = 100.0 * sums[..., 0] / sums[..., 1]
    return rates


def _check_any(counts: Counts) -> None:
    if not len(counts):
        raise CorpusError(
            "0 utterances to score, expected at least 1; check the manifest of the test split"
        )


def rate_intervals(
    pairs: Counts, speakers: Sequence[str] | None, seed: int, samples: int
) -> tuple[float, Interval, Interval | None]:
    """Return 100 * errors / tokens of (N, 2) pairs, and its intervals over utterances and speakers.

    Args:
        pairs: errors and reference tokens of each utterance.
        speakers: who speaks each utterance, or None.
        seed: of the bootstrap.
        samples: bootstrap resamples.

    Returns:
        The rate, its interval over utterances, and that over speakers: None without speakers or
        with fewer than MIN_SPEAKERS.

    Raises:
        CorpusError: If there is no utterance.
    """
    _check_any(pairs)
    if not pairs[:, 1].any():
        raise CorpusError(
            f"all {len(pairs)} references are empty; expected at least one token to score"
        )
    value = float(_ratio(pairs.sum(axis=0)))
    over_utterances = _interval(pairs, value, seed, samples)
    if speakers is None:
        return value, over_utterances, None
    assert len(speakers) == len(pairs), f"{len(speakers)} speakers for {len(pairs)} utterances"
    names, owner = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < MIN_SPEAKERS:
        return value, over_utterances, None
    groups = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(groups, owner, pairs)
    return value, over_utterances, _interval(groups, value, seed, samples)


def _interval(rows: Counts, value: float, seed: int, samples: int) -> Interval:
    """The interval of the rate `value` of (N, 2) rows: errors and tokens of each independent
    unit.
    """
    low, high = map(float, _percentiles(_ratio(_resample(rows, seed, samples))))
    return (
        Interval(low=low, high=high) if high - low > NO_WIDTH else score_interval(value, len(rows))
    )


def _resample(rows: Counts, seed: int, samples: int) -> Numbers:
    """Numbers (samples, C) of rows (N, C) drawn with replacement.

    The draws depend on seed and N only.
    """
    generator = np.random.default_rng(seed)
    number = len(rows)
    sums = np.empty((samples, rows.shape[1]))
    step = max(1, CHUNK // number)
    for start in range(0, samples, step):
        draws = generator.integers(number, size=(min(step, samples - start), number))
        offsets = number * np.arange(len(draws))[:, None]
        times = np.bincount((draws + offsets).ravel(), minlength=draws.size).reshape(draws.shape)
        sums[start : start + step] = times.astype(np.float64) @ rows  # whole numbers: exact
    return sums


def _percentiles(values: Numbers) -> Numbers:
    """The interval's two ends (2, ...) of resamples (..., samples)."""
    tails = [(100.0 - COVERAGE) / 2, (100.0 + COVERAGE) / 2]
    finite = np.isfinite(values)
    if finite.all():
        return np.percentile(values, tails, axis=-1)
    # a resample may hold no reference token at all
    return np.nanpercentile(np.where(finite, values, np.nan), tails, axis=-1)
