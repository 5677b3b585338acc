"""Metrics that are no ratio of sums: equal error rate over pairs, a mean over folds, a value in dB."""

import json
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pytest

from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import (
    Bootstrap,
    Bounds,
    Floats,
    System,
    Units,
    paired_difference,
)
from mt4ssl_bench.results.metrics import METRICS, Metric, Score

FEW = Bootstrap(samples=200)


class EqualErrorRate:
    """The rate in per cent at which misses and false alarms of trials are equally many."""

    def __call__(self, answers: Sequence[Answer], weights: Floats | None = None, /) -> float:
        rows = np.ones((1, len(answers))) if weights is None else weights[None]
        return float(self.resampled(answers)(rows)[0])

    def resampled(self, answers: Sequence[Answer], /) -> Callable[[Floats], Floats]:
        order = np.argsort([float(answer["hypothesis"]) for answer in answers], kind="stable")
        target = np.array([answer["reference"] == "target" for answer in answers])[order]

        def values(weights: Floats) -> Floats:
            ordered = weights[:, order]
            missed = (ordered * target).cumsum(axis=1)
            rejected = (ordered * ~target).cumsum(axis=1)
            with np.errstate(invalid="ignore"):
                misses, alarms = missed / missed[:, -1:], 1 - rejected / rejected[:, -1:]
            nearest = np.abs(misses - alarms).argmin(axis=1)[:, None]
            both: Floats = np.take_along_axis(misses + alarms, nearest, axis=1)
            return 50.0 * both[:, 0]

        return values


def both(answers: Sequence[Answer]) -> list[tuple[str, ...]]:
    return [tuple(answer["id"].split(" ")) for answer in answers]


def both_speakers(answers: Sequence[Answer]) -> list[tuple[str, ...]]:
    return [tuple(answer["labels"]["speakers"].split(" ")) for answer in answers]


EER = Metric(name="eer", value=EqualErrorRate(), units=both)


def trials(rng: np.random.Generator, utterances: int, gap: float, noise: float) -> list[Answer]:
    """All pairs of the utterances of two speakers; an utterance moves all of its trials."""
    effects = rng.standard_normal(utterances)
    answers: list[Answer] = []
    for i in range(utterances):
        for j in range(i):
            same = i % 2 == j % 2
            score = gap * same + effects[i] + effects[j] + noise * rng.standard_normal()
            answers.append(
                {
                    "id": f"u{i} u{j}",
                    "speaker": None,
                    "reference": "target" if same else "other",
                    "hypothesis": f"{score:.6f}",
                    "labels": {"speakers": f"s{i % 2} s{j % 2}"},
                }
            )
    return answers


def true_eer(gap: float, noise: float) -> float:
    return 100 * NormalDist().cdf(-gap / 2 / np.sqrt(2 + noise**2))


def covers(score: Score, value: float) -> bool:
    return score.low <= value <= score.high


def test_the_interval_of_an_equal_error_rate_over_pairs_holds_the_true_one() -> None:
    rng = np.random.default_rng(0)
    single = Metric(name="eer", value=EqualErrorRate())  # as if trials were independent
    repeats, true = 100, true_eer(3, 0.5)
    drawn = [trials(rng, 24, 3, 0.5) for _ in range(repeats)]
    held = sum(covers(EER.score(answers, FEW), true) for answers in drawn)
    naive = sum(covers(single.score(answers, FEW), true) for answers in drawn)
    assert held >= 0.92 * repeats
    assert naive < 0.8 * repeats  # 276 trials of 24 utterances are no 276 observations


def test_a_trial_counts_as_often_as_the_product_of_its_utterances() -> None:
    units = Units.of([("a", "b"), ("a", "c"), ("b", "b"), ("c",)])
    draws = np.array([[2.0, 3.0, 0.0], [1.0, 1.0, 1.0]])
    assert units.number == 3
    assert units.weights(draws).tolist() == [[6, 0, 3, 0], [1, 1, 1, 1]]


def test_few_groups_get_the_interval_of_their_number() -> None:
    answers = trials(np.random.default_rng(1), 24, 3, 0.5)
    speakers = Metric(name="eer", value=EqualErrorRate(), units=both_speakers, over="speakers")
    score = speakers.score(answers)
    assert (score.method, score.over) == ("wilson", "speakers")  # of two speakers
    assert score.high - score.low > 60


def test_trials_without_an_error_are_no_certainty() -> None:
    answers = trials(np.random.default_rng(1), 24, 99, 0.5)
    score = EER.score(answers)
    assert (score.value, score.low, score.method) == (0.0, 0.0, "wilson")
    assert score.high == pytest.approx(13.8, abs=0.1)  # 0 of 24 utterances, not of 276 trials


def compare(metric: Metric, a: Sequence[Answer], b: Sequence[Answer]) -> tuple[float, float, float]:
    units = Units.of(metric.units(a))
    systems = metric.system(a), metric.system(b)
    value, interval = paired_difference(*systems, units, metric.bounds, FEW)
    return value, interval.low, interval.high


def heard(answers: list[Answer], rng: np.random.Generator, gain: float) -> list[Answer]:
    """Another system on the same trials: `gain` better, with noise of its own."""
    return [
        {
            **answer,
            "hypothesis": str(
                float(answer["hypothesis"])
                + gain * (answer["reference"] == "target")
                + 0.7 * rng.standard_normal()
            ),
        }
        for answer in answers
    ]


def test_equal_systems_are_seldom_told_apart_and_unequal_ones_are() -> None:
    rng = np.random.default_rng(2)
    wrong, right, repeats = 0, 0, 60
    for _ in range(repeats):
        answers = trials(rng, 24, 3, 0.5)
        one, two, better = (heard(answers, rng, gain) for gain in (0, 0, 1.5))
        value, low, high = compare(EER, one, two)
        assert value == pytest.approx(EER.value(one) - EER.value(two))
        wrong += low > 0 or high < 0
        right += compare(EER, one, better)[1] > 0
    assert wrong <= 0.1 * repeats
    assert right >= 0.9 * repeats


def test_identical_trials_leave_room_for_a_difference() -> None:
    answers = trials(np.random.default_rng(1), 24, 3, 0.5)
    value, low, high = compare(EER, answers, answers)
    bound = 100 * (1 - 0.025 ** (1 / 24))
    assert (value, low, high) == (0.0, pytest.approx(-bound), pytest.approx(bound))


def test_few_different_utterances_are_no_difference() -> None:
    answers = trials(np.random.default_rng(1), 24, 9, 0.1)
    worse: list[Answer] = [
        {**answer, "hypothesis": "-99"} if answer["id"].endswith(" u0") else answer
        for answer in answers[:20]
    ]
    # u0 has trials with five others: six utterances differ
    changed = [a["id"] for a, b in zip(worse, answers, strict=False) if a != b]
    units = Units.of(EER.units(answers))
    marks = np.array([[answer["id"] in changed[:4] for answer in answers]])
    assert units.count(marks).tolist() == [5]
    five: list[Answer] = [
        {**answer, "hypothesis": "-99"} if answer["id"] in changed[:4] else answer
        for answer in answers
    ]
    value, low, high = compare(EER, five, answers)
    assert value > 0
    assert low <= 0 <= high


def mean_over_folds(answers: Sequence[Answer], weights: Floats | None = None) -> float:
    right = np.array([answer["hypothesis"] == answer["reference"] for answer in answers])
    folds = np.array([answer["labels"]["fold"] for answer in answers])
    weights = np.ones(len(answers)) if weights is None else weights
    number = np.unique(folds, return_inverse=True)[1]
    with np.errstate(invalid="ignore"):
        shares = np.bincount(number, weights * right) / np.bincount(number, weights)
    return 100 * float(np.mean(shares))


def answers_of_folds(rng: np.random.Generator, rates: Sequence[float]) -> list[Answer]:
    return [
        {
            "id": f"{fold}-{number}",
            "speaker": f"{fold}-{number % 2}",  # two speakers in each fold
            "reference": "x",
            "hypothesis": "x" if rng.uniform() < rate else "y",
            "labels": {"fold": str(fold)},
        }
        for fold, rate in enumerate(rates)
        for number in range(12 + 6 * fold)  # unequal folds: no mean over utterances
    ]


FOLDS = Metric(name="acc", value=mean_over_folds, higher_is_better=True)


def test_the_interval_of_a_mean_over_folds_holds_the_true_mean() -> None:
    rng = np.random.default_rng(3)
    rates, repeats = [0.5, 0.6, 0.7, 0.8, 0.9], 80
    scores = [FOLDS.score(answers_of_folds(rng, rates), FEW) for _ in range(repeats)]
    assert sum(covers(score, 70) for score in scores) >= 0.91 * repeats
    assert all(score.speaker_low is not None for score in scores)  # ten speakers
    assert {(score.errors, score.total) for score in scores} == {(None, None)}


def test_higher_is_better_where_the_metric_says_so() -> None:
    rng = np.random.default_rng(4)
    good, bad = (answers_of_folds(rng, [rate] * 5) for rate in (0.9, 0.4))
    value, low, _ = compare(FOLDS, good, bad)
    assert value > low > 0
    assert FOLDS.better(FOLDS.value(good), FOLDS.value(bad))


def test_another_unit_has_its_own_bounds() -> None:
    def decibels(answers: Sequence[Answer], weights: Floats | None = None) -> float:
        values = [float(answer["hypothesis"]) for answer in answers]
        return float(np.average(values, weights=weights))

    metric = Metric(
        name="si-sdr", title="SI-SDR", unit="dB", higher_is_better=True, value=decibels,
        bounds=Bounds(-50, 50),
    )  # fmt: skip
    answers: list[Answer] = [
        {"id": str(number), "speaker": None, "reference": "", "hypothesis": "9"}
        for number in range(30)
    ]
    score = metric.score(answers)
    assert (score.value, score.method, score.label) == (9.0, "wilson", "SI-SDR dB ↑")
    assert -12 < score.low < 9 < score.high < 26  # 59 of 100 in each of 30
    answers[0]["hypothesis"] = "12"
    assert metric.score(answers).method == "bootstrap"


@pytest.mark.parametrize("bounds", [(0, 0), (1, 0), (0, float("inf")), (float("nan"), 1)])
def test_bounds_that_scale_nothing_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="expected finite ones, low < high"):
        Bounds(*bounds)


def test_a_value_that_is_no_number_is_an_error_with_the_metrics_name() -> None:
    answers = trials(np.random.default_rng(1), 4, 3, 0.5)
    alike = [answer for answer in answers if answer["reference"] == "target"]
    with pytest.raises(CorpusError, match=r"eer: nan on 2 answers; expected a finite number"):
        EER.score(alike)


def answer(name: str, reference: str, hypothesis: str, fold: str = "1") -> Answer:
    return {"id": name, "reference": reference, "hypothesis": hypothesis, "labels": {"fold": fold}}


@pytest.mark.parametrize(
    ("metric", "right", "wrong", "also_wrong"),
    [
        ("acc", "joy", "fear", "calm"),
        ("fold_acc", "joy", "fear", "calm"),
        ("slot_type_f1", "B-city rome E-city", "B-day rome E-day", "B-day roma E-day"),
    ],
)
def test_other_errors_are_no_differences(
    metric: str, right: str, wrong: str, also_wrong: str
) -> None:
    """Four answers of a hundred differ: fewer than six, however many other errors there are."""

    def system(first: str, second: str) -> System:
        said = [first] * 4 + [second] * 4 + [right] * 92
        return METRICS.get(metric).system([answer(str(n), right, s) for n, s in enumerate(said)])

    units = Units.of([str(n) for n in range(100)])
    value, interval = paired_difference(system(right, wrong), system(wrong, also_wrong), units)
    assert value == pytest.approx(4)
    assert interval.low == 0
    assert paired_difference(system(right, right), system(wrong, wrong), units)[1].low > 0


def test_only_speakers_with_triplets_of_a_mode_count_in_it() -> None:
    def said(*errors: float) -> list[Answer]:
        rows = {
            n: [["a", "b", f"s{n}", f"s{n}", 1, error], ["b", "a", f"s{n}", f"s{n}", 1, error]]
            for n, error in enumerate(errors)
        }
        return [
            {
                "id": f"s{n}",
                "speaker": f"s{n}",
                "reference": "groups x",
                "hypothesis": json.dumps({"within": rows.get(n, []), "across": [n, *errors]}),
            }
            for n in range(10)
        ]

    metric = METRICS.get("abx_within")
    one, other = said(0.1, 0.1, 0.1), said(0.2, 0.25, 0.15)
    units = metric.units_of(one)
    assert units.number == 3
    value, interval = paired_difference(metric.system(one), metric.system(other), units)
    assert value == pytest.approx(-10)
    assert interval.low < interval.high == 0, "three speakers tell nothing"
    _, alike = paired_difference(metric.system(one), metric.system(one), units)
    assert alike.high == pytest.approx(100 * (1 - 0.025 ** (1 / 3)))  # 0 of 3 speakers, not of 10
