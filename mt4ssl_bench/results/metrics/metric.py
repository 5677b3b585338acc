"""Metric: a number computed from answers, with intervals and paired tests over independent units.

    def eer(answers, weights=None): ...

    EER = Metric(name="eer", value=eer, units=both_speakers, over="speakers")

is all that another metric needs; ratios of sums (error rates, accuracy) are RatioOfSums.
Shapes: N answers, S resamples.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from statistics import stdev
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.answers import Answer, Counts, by_seed, speakers_of
from mt4ssl_bench.results.intervals import (
    DEFAULT,
    MIN_GROUPS,
    PER_CENT,
    Bootstrap,
    Bounds,
    Floats,
    Method,
    Resampled,
    System,
    Units,
    interval,
    mean_of,
)

LAST = 100  # the place of a metric that does not say one
Confusions = Counter[tuple[str, str]]  # (reference, hypothesis) tokens, "" for a missing one


class Value(Protocol):
    """The number on some answers."""

    def __call__(self, answers: Sequence[Answer], weights: Floats | None = None, /) -> float:
        """Return the value, NaN where there is none.

        `weights` (N,) say how often each answer counts: whole numbers, many of them 0.
        """


@runtime_checkable
class Fast(Value, Protocol):
    """A value by resampled(), which computes many resamples of the same answers at once."""

    def __call__(self, answers: Sequence[Answer], weights: Floats | None = None, /) -> float:
        """See Value."""
        weights = np.ones(len(answers)) if weights is None else weights
        return float(self.resampled(answers)(weights[None])[0]) if len(answers) else math.nan

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """Return the function from weights (S, N) to values (S,)."""


@runtime_checkable
class Whole(Value, Protocol):
    """A value by system(), which makes its side of a comparison."""

    def __call__(self, answers: Sequence[Answer], weights: Floats | None = None, /) -> float:
        """See Value."""
        system = self.system(answers)
        return system.value if weights is None else float(system.resampled(weights[None])[0])

    def system(self, answers: Sequence[Answer], /) -> System:
        """See Metric.system."""


@runtime_checkable
class Telling(Value, Protocol):
    """A value that tells which answers are equally good, where other texts may be."""

    def outcomes(self, answers: Sequence[Answer], /) -> Floats | NDArray[np.str_]:
        """Return one outcome for each answer (N,); see System.outcomes."""


def digests(answers: Sequence[Answer]) -> NDArray[np.str_]:
    """Return a digest of each hypothesis (N,), which may be long: a query's in all documents."""
    texts = [sha256(answer["hypothesis"].encode()).hexdigest() for answer in answers]
    return np.array(texts, dtype=np.str_)


def by_id(answers: Sequence[Answer]) -> list[str]:
    """Return the ids: every answer is a unit."""
    return [answer["id"] for answer in answers]


@dataclass(frozen=True, kw_only=True)
class RatioOfSums(Whole):
    """The value 100 * errors / tokens over all answers, not a mean of rates.

    `counts` gives the error counts (N, 4) of answers. If `right`, tokens without an error count
    instead of errors (accuracy).
    """

    counts: Callable[[Sequence[Answer]], Counts]
    right: bool = False

    def system(self, answers: Sequence[Answer], /) -> System:
        """See Metric.system; the answers are counted once."""
        counts = self.counts(answers)
        errors, tokens = counts[:, :3].sum(axis=1), counts[:, 3]
        part = tokens - errors if self.right else errors
        sums = np.stack([part, tokens], axis=1).astype(np.float64)  # whole numbers: exact

        def resampled(weights: Floats) -> Floats:
            numerators, denominators = (weights @ sums).T
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios: Floats = 100.0 * numerators / denominators
            return ratios

        value = float(resampled(np.ones((1, len(counts))))[0])
        # without a token there is no rate: errors below 0 equal only each other
        rates = np.where(tokens > 0, errors / np.maximum(tokens, 1), -1.0 * errors)
        return System(value, resampled, rates, counts)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: its column, its value, and the independent units of its answers.

    Attributes:
        title: Default: the name in upper case.
        order: Place of its column; equal ones stand by task.
        units: From answers to the name of each one's independent unit (utterance, speaker,
            recording, query, fold), or of its units: both utterances of a trial.
        over: Plural of the unit, for texts.
        bounds: Lowest and highest value, in practice for one without a natural bound.
        confusions: From answers to how often each token was taken for another.
        tokens: Plural of the token, for texts.
        parts: Names of the substitutions, deletions and insertions of a ratio of sums, where each
            is a number of interest.
        ranked: Whether the number may rank and be compared. False for one that was selected on
            test, as SUPERB's rule says for some tasks: it stands in the record and in `show` only.
    """

    name: str
    value: Value
    title: str = ""
    unit: str = "%"
    higher_is_better: bool = False
    order: int = LAST
    units: Callable[[Sequence[Answer]], Sequence[str | tuple[str, ...]]] = by_id
    over: str = "utterances"
    bounds: Bounds = PER_CENT
    confusions: Callable[[Sequence[Answer]], Confusions] | None = None
    tokens: str = ""
    parts: tuple[str, str, str] | None = None
    ranked: bool = True

    @property
    def label(self) -> str:
        """The heading of a column, for example "PER % ↓"."""
        return heading(self.title or self.name.upper(), self.unit, up=self.higher_is_better)

    def better(self, a: float, b: float) -> bool:
        """Return whether the value `a` is better than `b`."""
        up = self.higher_is_better
        return goodness(a, higher_is_better=up) > goodness(b, higher_is_better=up)

    def counts(self, answers: Sequence[Answer]) -> Counts | None:
        """Return the error counts (N, 4) of a ratio of sums, None of another metric."""
        return self.value.counts(answers) if isinstance(self.value, RatioOfSums) else None

    def units_of(self, answers: Sequence[Answer]) -> Units:
        """Return the independent units of answers; those of several seeds share them."""
        return Units.of(self.units(next(iter(by_seed(answers).values()))))

    def system(self, answers: Sequence[Answer]) -> System:
        """Return value, resampled values and outcomes: one side of a comparison.

        Of several seeds it is the mean; their answers stand in one order.
        """
        return mean_of([self._system(part) for part in by_seed(answers).values()])

    def _system(self, answers: Sequence[Answer]) -> System:
        value = self.value
        if isinstance(value, Whole):
            return value.system(answers)

        def resampled(weights: Floats) -> Floats:
            return np.array([value(answers, row) for row in weights], dtype=np.float64)

        many = value.resampled(answers) if isinstance(value, Fast) else resampled
        own = value.outcomes(answers) if isinstance(value, Telling) else digests(answers)
        return System(value(answers), many, own)

    def alone(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Return the value of the answers of each unit, by its name; NaN where there is none."""
        units = self.units(next(iter(by_seed(answers).values())))
        names = {
            name: None for each in units for name in ([each] if isinstance(each, str) else each)
        }
        owners = Units.of(units)
        values = self.system(answers).resampled(owners.weights(np.eye(owners.number)))
        return dict(zip(names, values.tolist(), strict=True))

    def score(self, answers: Sequence[Answer], bootstrap: Bootstrap = DEFAULT) -> "Score":
        """Return the value with its intervals over units and over speakers.

        Of several seeds, the value is their mean, and the intervals are of the mean.

        Raises:
            CorpusError: If there is no answer, or no finite value.
        """
        if not len(answers):
            raise CorpusError(
                "0 utterances to score, expected at least 1; check the manifest of the test split"
            )
        seeds = by_seed(answers)
        systems = {seed: self._system(part) for seed, part in seeds.items()}
        system = mean_of(list(systems.values()))
        if not math.isfinite(system.value):
            raise CorpusError(
                f"{self.name}: {system.value} on {len(answers)} answers; expected a finite number"
                if system.counts is None
                else f"all {len(answers)} references are empty; expected at least one token to "
                "score"
            )
        names = speakers_of(next(iter(seeds.values()))) or []
        speakers = Units.of(names, sorted(set(names)))
        over = interval(system, self.units_of(answers), self.bounds, bootstrap)
        score = Score(
            value=system.value,
            low=over.low,
            high=over.high,
            method=over.method,
            higher_is_better=self.higher_is_better,
            title=self.title or self.name.upper(),
            unit=self.unit,
            order=self.order,
            over=self.over,
            ranked=self.ranked,
        )
        if len(systems) > 1:
            values = {seed: each.value for seed, each in systems.items()}
            score = replace(score, by_seed=values, sd=stdev(values.values()))
        if speakers.number >= MIN_GROUPS:
            over = interval(system, speakers, self.bounds, bootstrap)
            score = replace(
                score, speaker_low=over.low, speaker_high=over.high, speaker_method=over.method
            )
        if system.counts is not None:
            s, d, i, total = system.counts.sum(axis=0).tolist()
            score = replace(score, errors=s + d + i, total=total)
            if not self.higher_is_better:  # the right ones are counted, not the edits
                score = replace(score, substitutions=s, deletions=d, insertions=i)
        return score


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number over the test split, with its 95 % intervals and its column.

    `low` and `high` are over the metric's units (`over`), `speaker_low` and `speaker_high` over
    speakers, if there are at least MIN_GROUPS. A ratio of sums has `errors` of `total` tokens.
    `by_seed` has the value of each seed where several were trained: `value` is their mean, `sd`
    their standard deviation (n - 1), and the counts are sums over seeds.
    """

    value: float
    low: float
    high: float
    higher_is_better: bool
    errors: int | None = None
    total: int | None = None
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    speaker_low: float | None = None
    speaker_high: float | None = None
    method: Method = "bootstrap"  # of low and high
    speaker_method: Method | None = None  # of speaker_low and speaker_high
    title: str = ""
    unit: str = "%"
    order: int = LAST
    over: str = "utterances"
    ranked: bool = True  # see Metric
    by_seed: dict[str, float] = field(default_factory=dict)
    sd: float | None = None

    @property
    def goodness(self) -> float:
        """The value, such that higher is better."""
        return goodness(self.value, higher_is_better=self.higher_is_better)

    @property
    def label(self) -> str:
        """The heading of a column, for example "PER % ↓"."""
        return heading(self.title, self.unit, up=self.higher_is_better)

    def spread(self, digits: int = 2) -> str:
        """Return the standard deviation over seeds to follow the value, " ±0.40"; "" of one."""
        return "" if self.sd is None else f" ±{self.sd:.{digits}f}"

    @property
    def digits(self) -> int:
        """The number of decimals in a table."""
        return 1 if self.unit == "%" else 2


def heading(title: str, unit: str, *, up: bool) -> str:
    """Return the heading of a column."""
    return " ".join(filter(None, (title, unit, "↑" if up else "↓")))


def goodness(value: float, *, higher_is_better: bool) -> float:
    """Return a value such that higher is better."""
    return value if higher_is_better else -value
