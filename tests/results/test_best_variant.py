"""A number that was selected on test stands in the record only; its value is the best variant's."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from rich.console import Console

from builders import record as a_result
from mt4ssl_bench import results
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.metrics.best_variant import by_rule
from mt4ssl_bench.results.show import report

PER = METRICS.get("per")
BY_RULE = by_rule(PER)


def answer(name: str, reference: str, **variants: str) -> Answer:
    hypothesis = variants["chosen"]
    return {
        "id": name,
        "speaker": None,
        "reference": reference,
        "hypothesis": hypothesis,
        "variants": variants,
    }


ANSWERS = [
    answer("a", "A B C D", chosen="A B", lower="A B C", higher="A B C D"),
    answer("b", "A B", chosen="A B", lower="A", higher=""),
    answer("c", "A B", chosen="A", lower="A B", higher="A"),
]


def test_the_value_is_that_of_the_best_variant_and_chosen_anew_in_each_resample() -> None:
    ways = ("chosen", "lower", "higher")

    def values(weights: list[int]) -> list[float]:
        rows = [[{**a, "hypothesis": a["variants"][w]} for a in ANSWERS] for w in ways]
        return [PER.value(row, np.array(weights, float)) for row in rows]

    for weights in ([1, 1, 1], [3, 0, 0], [0, 3, 0], [0, 1, 2]):
        best = BY_RULE.value(ANSWERS, np.array(weights, float))
        assert best == min(values(weights))
    assert BY_RULE.value(ANSWERS) == 25.0  # "lower": 2 of 8
    assert PER.value(ANSWERS) == 37.5


def test_it_stands_in_the_record_and_in_show_and_is_never_ranked_nor_compared(
    tmp_path: Path,
) -> None:
    paths = []
    for model, value in (("a", 10.0), ("b", 20.0)):
        record = a_result(model, "phoneme", value)
        score = BY_RULE.score(ANSWERS)
        record = dataclasses.replace(record, metrics={**record.metrics, BY_RULE.name: score})
        paths.append(results.save(record, ANSWERS, tmp_path))
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert [column.metric for column in table.columns] == ["per"]
    differences = compare("a", "b", task="phoneme", folder=tmp_path)
    assert [each.metric for each in differences] == ["per"]
    assert not results.load(paths[0]).metrics[BY_RULE.name].ranked
    console = Console(width=200, file=io.StringIO())
    console.print(report(paths[0]))
    assert isinstance(console.file, io.StringIO)
    assert "PER by SUPERB's rule % ↓" in console.file.getvalue()
