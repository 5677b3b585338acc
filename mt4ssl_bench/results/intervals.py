"""95 % intervals of any metric, and of paired differences, by a bootstrap over independent units.

Where all units are alike, the bootstrap has no width, which would claim certainty: such intervals
come from a formula, which Interval.method names. With few groups (5 folds), bootstrap intervals
are somewhat narrow: 85 % instead of 95 % in a simulation.
Shapes: N answers, U units (utterances, speakers, ...), S resamples, M systems.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mt4ssl_bench.errors import ConfigError

Floats = npt.NDArray[np.float64]
T = TypeVar("T", float, npt.NDArray[np.float64])
# weights (S, N) of the answers -> the metric's value (S,) under each
Resampled = Callable[[Floats], Floats]

COVERAGE = 95.0  # per cent of the resamples that an interval holds
MIN_GROUPS = 5  # below this, resampling speakers (folds, ...) says little about others
CHUNK = 2**20  # weights held at once: about 25 MB
NO_WIDTH = 1e-9  # of 100: a narrower bootstrap interval comes of rounding only
Z = 1.959964  # the normal distribution's 97.5 % quantile
# a two-sided sign test of fewer differences cannot reach 5 %: 2 * 0.5**5 = 0.0625
MIN_DIFFERENT = 6

# jackknife, range: of ABX with few speakers
Method = Literal["bootstrap", "wilson", "poisson", "exact", "jackknife", "range"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The two ends of a 95 % interval, and its method.

    "bootstrap": percentile bootstrap (Efron and Tibshirani 1993, section 13.3). "wilson" and
    "poisson": score_interval(). "exact": paired_difference() where all units differ equally.
    """

    low: float
    high: float
    method: Method = "bootstrap"


@dataclass(frozen=True)
class Bounds:
    """The lowest and highest value of a metric; they scale the formulas, and clip no value."""

    low: float = 0.0
    high: float = 100.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigError(f"bounds {self.low}, {self.high}: expected finite ones, low < high")

    @property
    def scale(self) -> float:
        """The factor from a share in per cent to the metric's values."""
        return (self.high - self.low) / 100.0


PER_CENT = Bounds()


@dataclass(frozen=True)
class Units:
    """The independent units that answers belong to.

    Attributes:
        owners: Units (N, K) of each answer, `number` where it has fewer than K.
        number: Of units.
    """

    owners: npt.NDArray[np.intp]
    number: int

    @classmethod
    def of(cls, names: Iterable[str | tuple[str, ...]], order: Iterable[str] = ()) -> "Units":
        """Return the units of answers.

        Args:
            names: The name of each answer's unit, or of its units: a trial of two utterances.
            order: Names in the order of the draws; default: as they occur.
        """
        groups = [list(dict.fromkeys([n] if isinstance(n, str) else n)) for n in names]
        ordered = dict.fromkeys([*order, *itertools.chain(*groups)])
        index = {name: number for number, name in enumerate(ordered)}
        owners = np.full((len(groups), max(map(len, groups), default=1)), len(index), dtype=np.intp)
        for row, group in zip(owners, groups, strict=True):
            row[: len(group)] = [index[name] for name in group]
        return cls(owners, len(index))

    @cached_property
    def one_each(self) -> bool:
        """Whether answer n is unit n."""
        return np.array_equal(self.owners, np.arange(self.number)[:, None])

    def weights(self, draws: Floats) -> Floats:
        """Return the weights (S, N) of the answers under draws (S, U) of the units.

        A trial of two utterances has the product w_i * w_j.
        """
        if self.one_each:
            return draws
        padded = np.pad(draws, ((0, 0), (0, 1)), constant_values=1.0)
        weights: Floats = padded[:, self.owners].prod(axis=-1)
        return weights

    def count(self, answers: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """Return the number of units (M,) that any of the marked answers (M, N) belongs to."""
        if self.one_each:
            counts: npt.NDArray[np.intp] = np.count_nonzero(answers, axis=1)
            return counts
        touched = [np.unique(self.owners[row]) for row in answers]
        return np.array([np.count_nonzero(units < self.number) for units in touched])


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How units are resampled: the draws depend on the seed and the number of units only."""

    seed: int = 0
    samples: int = 1000

    def weights(self, units: Units) -> Iterator[Floats]:
        """Yield the weights of all answers in resamples of the units, (<= samples, N) at a time."""
        generator = np.random.default_rng(self.seed)
        number = units.number
        step = max(1, CHUNK // max(number, units.owners.size))
        for start in range(0, self.samples, step):
            draws = generator.integers(number, size=(min(step, self.samples - start), number))
            offsets = number * np.arange(len(draws))[:, None]
            times = np.bincount((draws + offsets).ravel(), minlength=draws.size)
            yield units.weights(times.reshape(draws.shape).astype(np.float64))


DEFAULT = Bootstrap()


@dataclass(frozen=True)
class System:
    """A metric on the answers of one system.

    Attributes:
        value: On all answers.
        outcomes: One for each answer (N,), equal for two systems that do equally well on it.
        counts: Error counts (N, 4) of a ratio of sums.
    """

    value: float
    resampled: Resampled
    outcomes: Floats | npt.NDArray[np.str_]
    counts: npt.NDArray[np.int64] | None = None


def mean_of(systems: Sequence[System]) -> System:
    """Return the mean of several systems with answers to the same items in one order."""
    if len(systems) == 1:
        return systems[0]

    def resampled(weights: Floats) -> Floats:
        means: Floats = np.mean([system.resampled(weights) for system in systems], axis=0)
        return means

    outcomes = np.stack([system.outcomes for system in systems])  # (M, N)
    texts = outcomes.dtype.kind == "U"
    counts = [system.counts for system in systems if system.counts is not None]
    return System(
        value=float(np.mean([system.value for system in systems])),
        resampled=resampled,
        outcomes=np.array(["\n".join(dict.fromkeys(row)) for row in outcomes.T])
        if texts
        else outcomes.astype(np.float64).mean(axis=0),
        counts=np.sum(counts, axis=0) if len(counts) == len(systems) else None,
    )


def interval(
    system: System, units: Units, bounds: Bounds = PER_CENT, bootstrap: Bootstrap = DEFAULT
) -> Interval:
    """Return a system's interval over units.

    It is score_interval() if the bootstrap has no width, and for fewer than MIN_GROUPS groups.
    """
    values = [system.resampled(weights) for weights in bootstrap.weights(units)]
    low, high = map(float, _percentiles(np.concatenate(values)))
    enough = units.one_each or units.number >= MIN_GROUPS
    if enough and high - low > NO_WIDTH * bounds.scale:
        return Interval(low=low, high=high)
    return score_interval(system.value, units.number, bounds)


def score_interval(value: float, number: int, bounds: Bounds = PER_CENT) -> Interval:
    """Return the 95 % score interval of a value that each of `number` units has.

    A unit counts as one trial however many tokens it has, as errors within a unit are not
    independent: the interval is wide, never too narrow. It is Wilson's (1927, JASA 22; 3 of 3
    right: [43.9, 100]) for the share of the range. A rate above 100 %, which insertions can give,
    is no share and gets that of a Poisson mean. Both solve
    (rate - x)**2 = Z**2 * variance(x) / number for x.
    """
    rate, share = max(0.0, (value - bounds.low) / bounds.scale / 100), Z * Z / number
    method: Method = "wilson" if rate <= 1 else "poisson"
    if rate <= 1:
        middle, scale = rate + share / 2, 1 + share
        half = math.sqrt(share * rate * (1 - rate) + share * share / 4)
        # rounded: 0 and 100 are exact
        ends = [round(100 * (middle + sign * half) / scale, 9) + 0.0 for sign in (-1, 1)]
    else:
        half = math.sqrt(share * rate + share * share / 4)
        ends = [100 * (rate + share / 2 + sign * half) for sign in (-1, 1)]
    low, high = (bounds.low + end * bounds.scale for end in ends)
    return Interval(low=low, high=high, method=method)


def paired_difference(
    a: System, b: System, units: Units, bounds: Bounds = PER_CENT, bootstrap: Bootstrap = DEFAULT
) -> tuple[float, Interval]:
    """Return the value of `a` minus that of `b`, with its 95 % paired bootstrap interval.

    Both systems are resampled by the same units, so what makes a unit hard for both cancels; an
    interval without 0 is a difference at that level (Bisani and Ney 2004, "Bootstrap estimates
    for confidence intervals in ASR performance evaluation"). Their answers must be to the same
    items in the same order; their references may differ.

    Where all units differ equally (identical answers, or one unit), the bootstrap has no width, and
    the interval is that of flat_difference(). Where fewer than MIN_DIFFERENT units differ, it holds
    0, as an exact sign test would say.
    """
    paired = _Paired([a, b], units, bounds, bootstrap)
    value, low, high, flat = (float(each[0]) for each in paired.differences(0, [1]))
    return value, Interval(low=low, high=high, method="exact" if flat else "bootstrap")


def flat_difference(value: T, units: int, scale: float) -> tuple[T, T]:
    """Return the ends of the interval of a difference that each of `units` units has.

    At most a share of 1 - 0.025**(1/U) of other units could show another difference (Clopper and
    Pearson 1934), of at most `scale`, the range of the metric.
    """
    share = 1 - ((100 - COVERAGE) / 200) ** (1 / units)
    return value * (1 - share) - share * scale, value * (1 - share) + share * scale


def beaten_by(
    systems: Sequence[System],
    units: Units,
    bounds: Bounds = PER_CENT,
    *,
    higher_is_better: bool = False,
) -> list[int]:
    """Return for each system the number of better ones, by paired_difference()."""
    paired = _Paired(systems, units, bounds, DEFAULT)
    beaten = np.zeros(len(systems), dtype=np.int64)
    for a in range(1, len(systems)):
        _, low, high, _ = paired.differences(a, range(a))
        above, below = low > 0, high < 0  # where a's value is clearly higher, clearly lower
        worse, better = (below, above) if higher_is_better else (above, below)
        beaten[a] += worse.sum()
        beaten[:a] += better
    return beaten.tolist()


class _Paired:
    """M systems on the same answers: their values (M,) and resampled values (M, S)."""

    def __init__(
        self, systems: Sequence[System], units: Units, bounds: Bounds, bootstrap: Bootstrap
    ) -> None:
        self.units, self.bounds = units, bounds
        self.outcomes = np.stack([system.outcomes for system in systems])  # of equal lengths
        self.values = np.array([system.value for system in systems])
        chunks = [
            np.stack([system.resampled(weights) for system in systems])
            for weights in bootstrap.weights(units)
        ]
        self.resampled = np.concatenate(chunks, axis=1)

    def differences(
        self, a: int, others: Sequence[int]
    ) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_]]:
        """Return differences of `a` to the others, their intervals' ends, where they are flat."""
        value = self.values[a] - self.values[others]
        low, high = _percentiles(self.resampled[a] - self.resampled[others])
        flat = high - low < NO_WIDTH * self.bounds.scale
        ends = flat_difference(value, self.units.number, 100 * self.bounds.scale)
        low, high = np.where(flat, ends[0], low), np.where(flat, ends[1], high)
        differ = self.outcomes[others] != self.outcomes[a]
        few = self.units.count(differ) < MIN_DIFFERENT
        low, high = np.where(few, np.minimum(low, 0), low), np.where(few, np.maximum(high, 0), high)
        return value, low, high, flat


def _percentiles(values: Floats) -> Floats:
    """Return the interval's two ends (2, ...) of resamples (..., S)."""
    tails = [(100.0 - COVERAGE) / 2, (100.0 + COVERAGE) / 2]
    finite = np.isfinite(values)
    if finite.all():
        return np.percentile(values, tails, axis=-1)
    # a resample may hold no reference token at all
    return np.nanpercentile(np.where(finite, values, np.nan), tails, axis=-1)
