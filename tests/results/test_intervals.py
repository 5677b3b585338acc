"""Intervals never claim certainty: no bootstrap without width, and no difference from a few
utterances.
"""

import math

import numpy as np
import pytest

from builders import accuracy, error_rate, ratio
from mt4ssl_bench.results import intervals
from mt4ssl_bench.results.answers import Counts, pair
from mt4ssl_bench.results.intervals import Interval, System, Units, score_interval
from mt4ssl_bench.results.metrics.error_rates import error_counts


def answers(right: int, wrong: int) -> Counts:
    """Counts of whole answers, the wrong ones first."""
    counts = np.zeros((right + wrong, 4), dtype=np.int64)
    counts[:wrong, 0] = 1
    counts[:, 3] = 1
    return counts


def system(counts: Counts) -> System:
    texts = [""] * len(counts)
    return ratio(counts).system(pair(texts, texts))


def each_one(number: int) -> Units:
    return Units.of(map(str, range(number)))


def paired_difference(a: Counts, b: Counts) -> tuple[float, Interval]:
    return intervals.paired_difference(system(a), system(b), each_one(len(a)))


def beaten_by(systems: list[Counts]) -> list[int]:
    return intervals.beaten_by([*map(system, systems)], each_one(len(systems[0])))


@pytest.mark.parametrize(("number", "low"), [(1, 20.7), (3, 43.9), (10, 72.2), (100, 96.3)])
def test_all_right_and_all_wrong_get_wilsons_interval(number: int, low: float) -> None:
    right, wrong = accuracy([True] * number), accuracy([False] * number)
    assert (right.value, wrong.value) == (100.0, 0.0)
    assert (right.low, right.high) == (pytest.approx(low, abs=0.05), 100.0)
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(100 - low, abs=0.05))
    assert right.method == wrong.method == "wilson"
    assert accuracy([True, False]).method == "bootstrap"


def test_no_errors_are_bounded_by_utterances_and_not_by_tokens() -> None:
    texts = ["A B C D E F G H I J"] * 3  # 30 tokens, but three independent utterances
    score = error_rate(error_counts(texts, texts, by="words"))
    assert (score.value, score.errors, score.total) == (0.0, 0, 30)
    assert (score.low, score.high) == (0.0, pytest.approx(56.1, abs=0.1))
    assert score.method == "wilson"


def test_one_utterance_is_no_certainty() -> None:
    score = error_rate(error_counts(["A B C D"], ["A B C"], by="words"))
    assert score.value == 25.0
    assert score.low < 2
    assert score.high > 88
    many = error_rate(error_counts(["A"], ["A B C"], by="words"))  # 200 %: no share, so no Wilson
    assert many.method == "poisson"
    assert many.low < 100 < 200 < many.high


def test_equal_rates_of_unequal_utterances_have_no_bootstrap_either() -> None:
    counts = error_counts(["A B", "A B C D"], ["A", "A B"], by="words")  # 1 of 2, 2 of 4
    score = error_rate(counts)
    assert (score.value, score.method) == (50.0, "wilson")
    assert score.low < 10
    assert score.high > 90


def test_speakers_that_are_all_alike_get_wilsons_interval_over_speakers() -> None:
    score = accuracy([True] * 50, speakers=[str(index % 5) for index in range(50)])
    assert score.speaker_low == pytest.approx(56.6, abs=0.1)  # 5 of 5
    assert score.low == pytest.approx(92.9, abs=0.1)  # 50 of 50
    assert (score.method, score.speaker_method) == ("wilson", "wilson")
    # each speaker has one wrong of two: utterances vary, speakers do not
    score = accuracy([True, False] * 5, speakers=[*"aabbccddee"])
    assert (score.method, score.speaker_method) == ("bootstrap", "wilson")


@pytest.mark.parametrize("rate", [0.0, 12.5, 100.0, 250.0])
@pytest.mark.parametrize("number", [1, 7, 300])
def test_a_score_interval_solves_its_equation(rate: float, number: int) -> None:
    interval = score_interval(rate, number)
    for end in (interval.low, interval.high):
        share = end / 100
        variance = share * (1 - share) if interval.method == "wilson" else share
        assert (rate / 100 - share) ** 2 == pytest.approx(1.959964**2 * variance / number, abs=1e-9)
    assert interval.low <= rate <= interval.high


@pytest.mark.parametrize("number", [1, 3, 40, 1000])
def test_identical_answers_leave_room_for_a_difference(number: int) -> None:
    value, interval = paired_difference(answers(number, 0), answers(number, 0))
    bound = 100 * (1 - 0.025 ** (1 / number))  # 0 of `number`: Clopper and Pearson
    assert value == 0.0
    assert interval == Interval(low=-bound, high=pytest.approx(bound), method="exact")


@pytest.mark.parametrize(("number", "clear"), [(1, False), (3, False), (5, False), (6, True)])
def test_all_against_none_is_a_difference_from_six_utterances_on(
    number: int,
    clear: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    value, interval = paired_difference(answers(0, number), answers(number, 0))
    assert value == 100.0
    assert (interval.low > 0) == clear  # as the sign test: 2 * 0.5 ** 6 = 0.031
    assert interval.high == pytest.approx(100.0)


@pytest.mark.parametrize(("different", "clear"), [(1, False), (4, False), (5, False), (6, True)])
def test_a_few_different_utterances_of_many_are_no_difference(
    different: int,
    clear: bool,  # noqa: FBT001
) -> None:
    _, interval = paired_difference(answers(1000 - different, different), answers(1000, 0))
    assert (interval.low > 0) == clear


def test_systems_are_beaten_as_pairs_are() -> None:
    generator = np.random.default_rng(1)
    hard = generator.uniform(0, 0.5, size=300)
    systems = []
    for skill in (0.0, 0.01, 0.05, 0.2):
        errors = generator.binomial(10, np.minimum(hard + skill, 1))
        zeros = np.zeros_like(errors)
        systems.append(np.stack([errors, zeros, zeros, zeros + 10], axis=1))
    systems.append(systems[0])
    beaten = [
        sum(paired_difference(a, b)[1].low > 0 for other, b in enumerate(systems) if other != index)
        for index, a in enumerate(systems)
    ]
    assert beaten_by(systems) == beaten
    assert beaten[0] == beaten[4] == 0
    assert beaten[3] == 4
    assert beaten_by(systems[:1]) == [0]


def test_utterances_without_reference_tokens_do_not_spoil_an_interval() -> None:
    counts = np.array([[0, 0, 2, 0]] * 3 + [[1, 0, 0, 4]])  # silence with insertions
    score = error_rate(counts)
    assert score.value == 175.0
    assert math.isfinite(score.low)
    assert math.isfinite(score.high)
    assert score.low < 175.0 <= score.high
    quiet = counts * [1, 1, 0, 1]
    value, interval = paired_difference(counts, quiet)
    assert value == 150.0
    assert interval.low <= 0  # three utterances


def test_a_paired_difference_is_tighter_than_two_intervals() -> None:
    generator = np.random.default_rng(0)
    tokens = np.full(500, 10)
    hard = generator.binomial(10, generator.uniform(0, 0.8, size=500))  # what both find hard
    better = np.maximum(hard - (generator.uniform(size=500) < 0.3), 0)
    zeros = np.zeros_like(tokens)
    a, b = (np.stack([errors, zeros, zeros, tokens], axis=1) for errors in (hard, better))
    difference, interval = paired_difference(a, b)
    assert difference == pytest.approx(error_rate(a).value - error_rate(b).value)
    assert 0 < interval.low < difference < interval.high
    assert interval.method == "bootstrap"
    assert error_rate(a).low < error_rate(b).high  # the separate intervals overlap
    assert paired_difference(b, a)[0] == -difference


def test_each_side_of_a_pair_counts_its_own_tokens() -> None:
    a = error_counts(["A B", "C D E"], ["A", "C D E"], by="words")  # 1 of 5
    b = error_counts(["A B C D E", "C D E"], ["A B", "C D E"], by="words")  # 3 of 8
    value, interval = paired_difference(a, b)
    assert value == pytest.approx(20.0 - 37.5)
    assert interval.low <= value <= interval.high
