"""MTWV: equal to a loop over all thresholds, with ties, weights and hopeless systems."""

import json

import numpy as np
import pytest

from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.metrics.term_weighted import FALSE_ALARM, MTWV

Table = list[tuple[list[float], list[float]]]  # scores where a query occurs, and elsewhere


def answers_of(table: Table) -> list[Answer]:
    answers: list[Answer] = []
    for number, (found, others) in enumerate(table):
        documents = {f"in {n}": score for n, score in enumerate(found)}
        elsewhere = {f"out {n}": score for n, score in enumerate(others)}
        answers.append(
            {
                "id": f"q{number}",
                "speaker": None,
                "reference": json.dumps(list(documents)),
                "hypothesis": json.dumps(elsewhere | documents),
            }
        )
    return answers


def loop(table: Table) -> float:
    """Return the best of all thresholds, query by query and document by document."""
    every = {score for found, others in table for score in found + others}
    best = -np.inf
    for threshold in [*every, max(every) + 1]:
        losses = []
        for found, others in table:
            misses = sum(score < threshold for score in found)
            alarms = sum(score >= threshold for score in others)
            share = alarms / len(others) if others else 0.0
            losses.append(misses / len(found) + FALSE_ALARM * share)
        best = max(best, 1 - float(np.mean(losses)))
    return 100 * best


def random_table(seed: int, *, ties: bool = False) -> Table:
    rng = np.random.default_rng(seed)
    table = []
    for _ in range(rng.integers(1, 9)):
        found = rng.normal(1.5, 1, rng.integers(1, 6))
        others = rng.normal(0, 1, rng.integers(0, 30))
        digits = 0 if ties else 6
        table.append((found.round(digits).tolist(), others.round(digits).tolist()))
    return table


def test_the_weight_of_false_alarms_is_that_of_quesst() -> None:
    prior, false_alarm, miss = 0.0008, 1, 100
    assert pytest.approx(false_alarm / miss * (1 - prior) / prior) == FALSE_ALARM


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_it_equals_a_loop_over_all_thresholds(seed: int, *, ties: bool) -> None:
    table = random_table(seed, ties=ties)
    assert MTWV.value(answers_of(table)) == pytest.approx(loop(table), abs=1e-9)


def test_weights_are_repetitions_of_queries() -> None:
    table = [each for seed in (3, 4) for each in random_table(seed)]
    weights = np.arange(len(table)) % 3
    again = [each for each, times in zip(table, weights, strict=True) for _ in range(times)]
    value = MTWV.value(answers_of(table), weights.astype(np.float64))
    assert value == pytest.approx(loop(again), abs=1e-9)


def test_perfect_hopeless_and_equal_scores() -> None:
    assert MTWV.value(answers_of([([2.0, 3.0], [1.0] * 9), ([5.0], [])])) == 100
    assert MTWV.value(answers_of([([0.0], [1.0] * 9)])) == 0
    assert MTWV.value(answers_of([([0.0], [0.0] * 9)])) == 0
    # one query is told apart, the other is not: half of the occurrences
    assert MTWV.value(answers_of([([2.0], [0.0] * 9), ([0.0], [1.0] * 9)])) == 50


def test_the_interval_and_the_comparison_are_over_queries() -> None:
    rng = np.random.default_rng(0)
    sides = []
    for gap in (3.0, 1.0):
        table = [(rng.normal(gap, 1, 4).tolist(), rng.normal(0, 1, 40).tolist()) for _ in range(40)]
        sides.append(answers_of(table))
    score = MTWV.score(sides[0])
    assert score.low < score.value < score.high
    assert (score.label, score.over, score.digits) == ("MTWV x100 ↑", "queries", 2)
    systems = [MTWV.system(side) for side in sides]
    value, interval = paired_difference(*systems, Units.of(MTWV.units(sides[0])))
    assert 0 < interval.low < value < interval.high
