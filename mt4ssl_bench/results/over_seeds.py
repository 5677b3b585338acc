"""95 % intervals over trainings: of a mean over seeds, and of a difference paired by seed.

They say what other seeds would give. The intervals of a record say what other utterances would
give, with the trained models held fixed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class OverSeeds:
    """A mean over seeds with Student's t interval, which one seed leaves without ends.

    Attributes:
        standard_errors: Half the interval's width in standard errors: 4.3 for three seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int
    standard_errors: float


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Return the mean of one value per seed, with its interval (Student 1908; n - 1 degrees)."""
    mean, number = float(np.mean(values)), len(values)
    if number < 2:
        return OverSeeds(
            mean=mean, low=-math.inf, high=math.inf, seeds=number, standard_errors=math.inf
        )
    factor = float(stats.t.ppf(0.975, number - 1))
    half = factor * float(np.std(values, ddof=1)) / math.sqrt(number)
    return OverSeeds(
        mean=mean, low=mean - half, high=mean + half, seeds=number, standard_errors=factor
    )


def paired_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> OverSeeds | None:
    """Return the mean of a - b over the seeds that both have, or None if they share none."""
    shared = sorted(a.keys() & b.keys())
    return over_seeds([a[seed] - b[seed] for seed in shared]) if shared else None
