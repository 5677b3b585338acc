"""Means of numbers that answers carry: value, interval, pairs, and answers without the number."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import builders
from mt4ssl_bench import results
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.metrics.mean_of_values import MeanOfValues


def measured(values: list[float | None], name: str = "si_sdri") -> list[Answer]:
    return [
        {
            "id": f"u{number}", "speaker": None, "reference": "clean", "hypothesis": "",
            "values": {} if value is None else {name: value},
        }
        for number, value in enumerate(values)
    ]  # fmt: skip


def test_the_value_is_the_mean_and_its_interval_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(6, 2, 400)
    score = METRICS.get("si_sdri").score(measured(list(values)))
    assert score.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    assert (score.low, score.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.03
    )
    assert (score.label, score.method, score.errors) == ("SI-SDRi dB ↑", "bootstrap", None)


def test_weights_say_how_often_an_answer_counts() -> None:
    answers = measured([1.0, 2.0, 6.0])
    value = MeanOfValues("si_sdri")
    assert value(answers, np.array([2.0, 0.0, 1.0])) == pytest.approx(8 / 3)
    many = value.system(answers).resampled(np.array([[1.0, 1, 1], [0, 3, 0]]))
    assert many.tolist() == [3.0, 2.0]


def test_an_answer_without_the_number_counts_for_nothing() -> None:
    value = MeanOfValues("pesq")
    answers = measured([1.5, None, 2.5], "pesq")
    assert value(answers) == 2.0
    assert value.lacking(answers) == ["u1"]
    del answers[1]["values"]
    assert value(answers) == 2.0
    score = METRICS.get("pesq").score(measured([1.5, None, 2.5] * 9, "pesq"))
    assert 1.5 <= score.low <= score.high <= 2.5
    with pytest.raises(CorpusError, match=r"pesq: nan on 2 answers; expected a finite number"):
        METRICS.get("pesq").score(measured([None, None], "pesq"))


def test_pairs_are_compared_by_utterance() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(3, 5, 60)  # utterances differ by far more than the systems
    metric = METRICS.get("si_sdri")
    a, b = (measured(list(hard + gain)) for gain in (1 + rng.normal(0, 0.5, 60), 0))
    value, interval = paired_difference(
        metric.system(a), metric.system(b), Units.of(metric.units(a)), metric.bounds
    )
    assert value == pytest.approx(1, abs=0.2)
    assert 0.7 < interval.low < value < interval.high < 1.3
    alone = metric.score(a), metric.score(b)
    assert alone[0].low < alone[1].high, "apart, the intervals overlap"
    few = measured([*hard[:5] + 1, *hard[5:]])  # five differ: no sign test could tell
    _, interval = paired_difference(
        metric.system(few), metric.system(b), Units.of(metric.units(b)), metric.bounds
    )
    assert interval.low <= 0 <= interval.high


def test_values_are_stored_and_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(3, 5, 30)
    for model, gain in (("better", 1.0), ("worse", 0.0)):
        answers = measured([*(hard + gain + rng.normal(0, 0.1, 30)), None])
        record = builders.record(model, metrics={"si_sdri": METRICS.get("si_sdri").score(answers)},
                                 main_metric="si_sdri")  # fmt: skip
        path = results.save(record, answers, tmp_path)
        lines = results.hypotheses_path(path).read_text(encoding="utf-8").splitlines()
        assert json.loads(lines[0])["values"] == answers[0]["values"]
        assert json.loads(lines[-1])["values"] == {}
    (found,) = compare("better", "worse", task="phoneme", folder=tmp_path)
    assert found.value == pytest.approx(1, abs=0.1)
    assert 0 < found.low < found.value
    assert found.verdict("better", "worse") == "better is better"
