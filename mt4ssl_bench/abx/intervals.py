"""95 % intervals of ABX scores and of their differences, over other speakers.

Triplets share tokens and cells share speakers, so speakers are resampled, by weights: no distance
is computed again, and copies of a speaker never meet. Tokens are never resampled, because a copied
token would meet itself.

Shapes: L layers, R replicates, S speakers.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mt4ssl_bench.abx.table import Numbers, Table, Weights
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.intervals import NO_WIDTH, flat_difference, score_interval

Method = Literal["bootstrap", "jackknife", "range", "wilson", "exact"]
Over = Literal["groups", "categories"]
BOOTSTRAP, JACKKNIFE = 10, 5  # fewest speakers
SAMPLES = 2000
Z = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval of a score or of a difference of scores.

    Attributes:
        low: Lower end.
        high: Upper end.
        method: "bootstrap": expanded percentiles (Hesterberg 2015, American Statistician 69).
            "jackknife": t interval of the delete-one jackknife (Efron and Tibshirani 1993, chapter
            11). "range": the lowest and highest score of a speaker; no confidence is claimed.
            "wilson", "exact": score_interval() and flat_difference(), where all speakers are alike.
        speakers: Number of resampled speakers.
        vanished: Mean share of ordered pairs of categories that a replicate lacks: the larger it
            is, the less are replicates averages over the same pairs.
    """

    low: float
    high: float
    method: Method
    speakers: int
    vanished: float


@dataclass(frozen=True)
class Replicates:
    """Scores of a table with other weights of its speakers, for intervals and differences.

    Attributes:
        digest: Digest of the triplets; differences need the same.
        scores: Score of each layer (L,).
        values: Replicates (L, R).
        method: What they are for.
        speakers: Number of speakers.
        vanished: See Interval.
    """

    digest: str
    scores: Numbers
    values: Numbers
    method: Method
    speakers: int
    vanished: float

    def interval(self, layer: int) -> Interval:
        """Return the interval of a layer's score, within [0, 1]."""
        score = float(self.scores[layer])
        low, high = self._ends(score, self.values[layer])
        if self._flat(low, high):
            alike = score_interval(100 * score, self.speakers)
            return self._interval(alike.low / 100, alike.high / 100, "wilson")
        return self._interval(max(low, 0.0), min(high, 1.0))

    def difference(
        self, layer: int, other: "Replicates", other_layer: int
    ) -> tuple[float, Interval]:
        """Return a score minus another one, and its interval: both have the same weights.

        What makes a speaker difficult for both cancels.

        Raises:
            ConfigError: If the other scores are of other triplets.
        """
        same = self.values.shape[1] == other.values.shape[1]
        if self.digest != other.digest or not same:
            raise ConfigError(
                "ABX scores of different triplets cannot be compared; expected the same items, "
                "settings and samples"
            )
        value = float(self.scores[layer] - other.scores[other_layer])
        differences = self.values[layer] - other.values[other_layer]
        low, high = self._ends(value, differences)
        if self._flat(low, high):
            return value, self._interval(*flat_difference(value, self.speakers, 1.0), "exact")
        return value, self._interval(low, high)

    def _flat(self, low: float, high: float) -> bool:
        """Return whether an interval would claim certainty; a range claims nothing."""
        return self.method != "range" and high - low <= NO_WIDTH / 100

    def _ends(self, value: float, values: Numbers) -> tuple[float, float]:
        values = values[np.isfinite(values)]
        number = self.speakers
        if self.method == "range":
            return float(values.min()), float(values.max())
        if self.method == "jackknife":
            error = math.sqrt(
                (number - 1) / number * float(np.square(values - values.mean()).sum())
            )
            half = t_quantile(number - 1) * error
            return value - half, value + half
        # the bootstrap's variance is (S - 1) / S of the true one, and its tails are normal
        tail = _normal_share(-math.sqrt(number / (number - 1)) * t_quantile(number - 1))
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)

    def _interval(self, low: float, high: float, method: Method | None = None) -> Interval:
        return Interval(
            low=low,
            high=high,
            method=method or self.method,
            speakers=self.speakers,
            vanished=self.vanished,
        )


def replicate(
    table: Table, over: Over = "groups", *, samples: int = SAMPLES, seed: int = 0
) -> Replicates:
    """Return replicates of a table's scores.

    A bootstrap from 10 speakers on, a jackknife from 5 on, below it the scores of single speakers.
    "Across", a speaker has the same weight as that of a and b and as that of x.

    Args:
        table: Scores of all layers.
        over: "groups" resamples speakers where they are the groups; "categories" resamples the
            categories, with weight w_p * w_q of a pair: the speakers of speaker ABX, or phones
            (which answers how the score would be for other phones).
        samples: Replicates of the bootstrap.
        seed: Of the bootstrap. Tables with the same number of speakers get the same weights.
    """
    columns = [2, 3] if over == "groups" else [0, 1]
    used = np.unique(table.keys[:, columns])
    method = _method(len(used))
    if method == "range":
        _, values = alone(table, over)
        vanished = np.zeros(1)
    else:
        drawn = _multiplicities(method, len(used), samples, seed)
        ones = {"groups": len(table.groups), "categories": len(table.categories)}
        weights = {name: np.ones((size, drawn.shape[1])) for name, size in ones.items()}
        weights[over][used] = drawn
        values, vanished = table.weighted(
            Weights(a=weights["groups"], x=weights["groups"], categories=weights["categories"])
        )
    return Replicates(
        table.digest, table.errors(), values, method, len(used), float(vanished.mean())
    )


def alone(table: Table, over: Over = "groups") -> tuple[list[str], Numbers]:
    """Return the names of S speakers, and their own scores (L, S).

    Of groups, each is that of a and b, and x may be of any other one; of categories, each is that
    of a and x. A speaker without a triplet has NaN.
    """
    used = np.unique(table.keys[:, [2, 3] if over == "groups" else [0, 1]])
    if over == "categories":
        names = [table.categories[i] for i in used]
        errors = table.pair_errors()
        own = [[each for (p, _), each in errors.items() if p == name] for name in names]
        none = np.full(len(table.sums), np.nan)
        return names, np.stack([np.mean(each, axis=0) if each else none for each in own], axis=1)
    eye = np.zeros((len(table.groups), len(used)))
    eye[used, np.arange(len(used))] = 1
    everybody = np.ones_like(eye)
    categories = np.ones((len(table.categories), len(used)))
    values, _ = table.weighted(Weights(a=eye, x=everybody, categories=categories))
    return [table.groups[i] for i in used], values


def _method(speakers: int) -> Method:
    if speakers >= BOOTSTRAP:
        return "bootstrap"
    return "jackknife" if speakers >= JACKKNIFE else "range"


def _multiplicities(method: Method, speakers: int, samples: int, seed: int) -> Numbers:
    """Return how often each speaker is in each replicate (S, R)."""
    if method == "jackknife":
        return 1 - np.eye(speakers)
    draws = np.random.default_rng(seed).integers(speakers, size=(samples, speakers))
    places = draws + speakers * np.arange(samples)[:, None]
    counts = np.bincount(places.ravel(), minlength=samples * speakers)
    return counts.reshape(samples, speakers).T.astype(np.float64)


@lru_cache
def t_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5)."""
    z, n = Z, degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(n) ** power for power, term in enumerate(terms, start=1))


def _normal_share(z: float) -> float:
    """Return the share of a normal distribution below `z`."""
    return (1 + math.erf(z / math.sqrt(2))) / 2
