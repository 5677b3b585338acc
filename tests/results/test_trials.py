"""Metrics of verification trials: against scikit-learn and s3prl, with intervals over speakers."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.metrics.trials import EER, MIN_DCF


def answers_of(
    scores: Sequence[float], targets: Sequence[bool], speakers: Sequence[tuple[str, str]] = ()
) -> list[Answer]:
    speakers = speakers or [("a", "a" if target else "b") for target in targets]
    return [
        {
            "id": str(number),
            "speaker": None,
            "reference": "target" if target else "nontarget",
            "hypothesis": str(score),
            "labels": {"enrol_speaker": a, "test_speaker": b},
        }
        for number, (score, target, (a, b)) in enumerate(
            zip(scores, targets, speakers, strict=True)
        )
    ]


def random_sets(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and targets: few and many trials, with and without ties, good and bad systems."""
    rng, sets = np.random.default_rng(0), []
    for _ in range(count):
        targets = rng.random(int(rng.integers(4, 400))) < rng.uniform(0.1, 0.9)
        targets[:2] = True, False
        scores = rng.standard_normal(len(targets)) + rng.uniform(-1, 4) * targets
        digits = rng.choice([0, 1, 8])
        sets.append((np.round(scores, digits), targets))
    return sets


def test_the_equal_error_rate_is_scikit_learns_roc_with_root_finding() -> None:
    ties = 0
    for scores, targets in random_sets(100):
        false, true, _ = roc_curve(targets, scores, pos_label=1)
        theirs = brentq(lambda x, f=false, t=true: 1 - x - interp1d(f, t)(x), 0, 1)
        assert EER.value(answers_of(scores, targets)) == pytest.approx(100 * theirs, abs=1e-6)
        ties += len(set(scores)) < len(scores)
    assert ties > 30


def test_the_minimal_detection_cost_is_s3prls() -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        theirs: Any = pytest.importorskip("s3prl.metric.common").compute_minDCF
    for scores, targets in random_sets(100):
        expected, _ = theirs(targets.astype(int), scores)
        assert MIN_DCF.value(answers_of(scores, targets)) == pytest.approx(expected, abs=1e-9)


def test_weights_count_trials_as_often_as_repeated_ones() -> None:
    rng = np.random.default_rng(1)
    for scores, targets in random_sets(20):
        weights = rng.integers(0, 3, len(scores))
        weights[:2] = 1
        repeated = np.repeat(scores, weights), np.repeat(targets, weights)
        for metric in (EER, MIN_DCF):
            expected = metric.value(answers_of(*repeated))
            weighted = metric.value(answers_of(scores, targets), weights.astype(float))
            assert weighted == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [EER, MIN_DCF])
def test_trials_of_one_kind_have_no_rate(metric: Any) -> None:
    for target in (True, False):
        assert np.isnan(metric.value(answers_of([0.1, 0.2], [target, target])))
    assert np.isnan(metric.value([]))


def speech(speakers: int, shift: float, seed: int) -> list[Answer]:
    """Four utterances of each speaker, all pairs: a speaker moves all of their trials."""
    rng = np.random.default_rng(7)
    of = [s for s in range(speakers) for _ in range(4)]
    moved, noise = rng.standard_normal(speakers), np.random.default_rng(seed)
    pairs = [(a, b) for b in range(len(of)) for a in range(b)]
    targets = [of[a] == of[b] for a, b in pairs]
    scores = [
        (3 + shift) * target + 0.5 * (moved[of[a]] + moved[of[b]]) + noise.standard_normal()
        for (a, b), target in zip(pairs, targets, strict=True)
    ]
    return answers_of(scores, targets, [(f"s{of[a]}", f"s{of[b]}") for a, b in pairs])


def test_speakers_are_resampled_and_an_interval_over_trials_would_be_too_narrow() -> None:
    answers = speech(12, 0.0, seed=1)
    score = EER.score(answers)
    assert score.over == "speakers"
    assert score.low < score.value < score.high
    trials = replace(EER, units=lambda answers: [a["id"] for a in answers]).score(answers)
    assert trials.high - trials.low < 0.8 * (score.high - score.low)
    assert Units.of(EER.units(answers)).number == 12


def test_the_better_of_two_systems_is_told_by_the_same_speakers() -> None:
    weak, strong = speech(12, 0.0, seed=1), speech(12, 1.0, seed=2)
    units = Units.of(EER.units(weak))
    value, interval = paired_difference(EER.system(strong), EER.system(weak), units)
    assert interval.low < value < interval.high < 0
    _, same = paired_difference(EER.system(weak), EER.system(speech(12, 0.0, seed=3)), units)
    assert same.low < 0 < same.high
