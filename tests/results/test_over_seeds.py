"""Intervals over seeds: those of scipy's paired t test, and none where a seed is by itself."""

import math

import numpy as np
import pytest
from scipy import stats

from mt4ssl_bench.results.over_seeds import over_seeds, paired_by_seed


def test_the_paired_interval_is_that_of_scipys_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = 40 + 5 * rng.standard_normal((2, 5))
    found = paired_by_seed(dict(enumerate(a)), dict(enumerate(b)))
    assert found is not None
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(float(np.mean(a - b)))


def test_three_seeds_give_an_interval_of_four_standard_errors_on_each_side() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.standard_errors == pytest.approx(4.303, abs=1e-3)  # any table of t, 2 degrees
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


def test_seeds_that_only_one_side_has_are_not_paired() -> None:
    found = paired_by_seed({0: 3.0, 1: 5.0, 7: 100.0}, {0: 1.0, 1: 2.0, 8: -100.0})
    assert found is not None
    assert (found.seeds, found.mean) == (2, 2.5)
    assert paired_by_seed({0: 1.0}, {1: 1.0}) is None


def test_one_seed_says_nothing_about_others() -> None:
    found = over_seeds([3.0])
    assert (found.mean, found.low, found.high) == (3.0, -math.inf, math.inf)
