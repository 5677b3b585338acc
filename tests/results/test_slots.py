"""Slot-type F1 and slot-value CER against s3prl's own functions, and by hand; intervals and pairs."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from mt4ssl_bench.results.answers import pair
from mt4ssl_bench.results.intervals import Units, paired_difference
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.results.metrics.slots import confused_types, hypothesis_slots, reference_slots

F1, CER = METRICS.get("slot_type_f1"), METRICS.get("slot_value_cer")
TYPES = ("city", "city_name", "time", "x")  # the first begins as the second does
PAIRS = [  # hypothesis, reference
    ("", "GO TO B-city ROME E-city "),
    ("B-city ROME E-city", "B-city ROME E-city"),
    ("B-time ROME E-time", "B-city ROME E-city"),
    ("NO SLOT AT ALL", "NONE HERE EITHER"),
    ("B-city ROME E-city", "NONE HERE"),
    ("B-city ROME", "B-city ROME E-city"),  # never closed
    ("ROME E-city", "B-city ROME E-city"),  # never opened
    ("B-city ROME E-time E-city", "B-city ROME E-city"),  # a stray mark within
    ("B-city B-time ROME E-time E-city", "B-city ROME E-city"),  # nested
    ("B-city NEW B-time YORK E-city NOW E-time", "B-city NEW YORK E-city"),  # crossed
    ("B-city B-city ROME E-city E-city", "B-city ROME E-city"),
    ("B-city  E-city", "B-city ROME E-city"),  # empty
    ("B-city E-time E-city", "B-city ROME E-city"),
    ("B-city ROME E-city_name", "B-city ROME E-city"),  # closed by the mark of a longer type
    ("B-city PARIS E-city B-city ROMA E-city", "B-city ROME E-city"),  # the nearest one counts
    ("B-x A E-x", "B-x A E-x AND B-x B E-x"),
    (f"B-x {'LONG ' * 60} E-x", "B-x A E-x"),  # over 100 edits per character: as if it were empty
    (f"B-x {'L' * 101} E-x", "B-x L E-x"),  # 100
    (f"B-x {'L' * 100} E-x", "B-x L E-x"),  # 99
    ("B-x <unk> E-x", "B-x <unk><unk> E-x"),
    ("B-x   TWO    SPACES   E-x", "B-x TWO SPACES E-x"),
]


def random_texts(seed: int) -> str:
    """Words and marks in any order, some of them in pairs."""
    draw = random.Random(seed)  # noqa: S311
    parts: list[str] = []
    for _ in range(draw.randint(0, 8)):
        kind, words = draw.choice(TYPES), draw.choices(("A", "BE", "SEA", "<unk>"), k=2)
        parts += {
            0: [f"B-{kind} ", " ".join(words), f" E-{kind}"],
            1: [f"B-{kind} ", words[0]],
            2: [words[0], f" E-{kind}"],
            3: [f"B-{kind} ", f"B-{draw.choice(TYPES)} ", words[1], f" E-{kind}"],
            4: words,
        }[draw.randrange(5)]
        parts.append(" " * draw.randint(0, 2))
    return "".join(parts)


@pytest.fixture(scope="module", params=["s3prl.downstream.ctc.metric", "s3prl.metric.slot_filling"])
def s3prl(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    """Hypotheses with references, by hand and at random; every third one is nearly right."""
    drawn = [(random_texts(n), random_texts(10_000 + n)) for n in range(600)]
    near = [(text.replace("SEA", "TEA", n % 2), text) for n, (_, text) in enumerate(drawn[:300])]
    return PAIRS + drawn + near


def each_and_all(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    for hypothesis, reference in texts:
        yield [hypothesis], [reference]
    hypotheses, references = zip(*texts, strict=True)
    yield list(hypotheses), list(references)


def test_slot_type_f1_is_theirs(s3prl: Any, texts: list[tuple[str, str]]) -> None:
    values = set()
    for hypotheses, references in each_and_all(texts):
        theirs = 100 * s3prl.slot_type_f1(hypotheses, references)
        assert F1.value(pair(references, hypotheses)) == pytest.approx(theirs, abs=1e-9)
        values.add(round(theirs, 3))
    assert len(values) > 6


def test_slot_value_cer_is_theirs(s3prl: Any, texts: list[tuple[str, str]]) -> None:
    values = set()
    for hypotheses, references in each_and_all(texts):
        if not any(map(reference_slots, references)):
            assert np.isnan(CER.value(pair(references, hypotheses)))  # theirs divides by zero
            continue
        theirs = 100 * s3prl.slot_value_cer(hypotheses, references)
        assert CER.value(pair(references, hypotheses)) == pytest.approx(theirs, abs=1e-9)
        values.add(round(theirs, 3))
    assert len(values) > 50


def test_values_by_hand() -> None:
    references = ["SET B-time TEN E-time IN B-city ROME E-city", "HELLO", "B-x A E-x"]
    hypotheses = ["B-time TEN E-time B-city LIMA E-city B-x A E-x", "HELLO", "A"]
    answers = pair(references, hypotheses)
    # types: 2 of 2 found with 3 hypothesized, none expected and none found, 0 of 1
    assert F1.value(answers) == pytest.approx(100 * (4 / 5 + 1 + 0) / 3)
    # values: TEN right, ROME for LIMA 3 edits, A missing; the x of the first costs nothing
    assert CER.value(answers) == pytest.approx(100 * (0 + 3 + 1) / (3 + 4 + 1))
    assert confused_types(answers) == Counter({("", "x"): 1, ("x", ""): 1})


def test_marks_within_a_hypothesized_value_are_no_part_of_it() -> None:
    text = "B-city NEW B-time YORK E-city"
    assert hypothesis_slots(text) == {"city": ["NEW YORK"]}
    assert reference_slots(text) == {"city": ["NEW B-time YORK"]}, "as theirs"


def test_both_have_direction_unit_and_an_interval_over_utterances(
    texts: list[tuple[str, str]],
) -> None:
    hypotheses, references = zip(*texts, strict=True)
    answers = pair(references, hypotheses)
    f1, cer = F1.score(answers), CER.score(answers)
    assert (f1.label, cer.label) == ("slot-type F1 % ↑", "slot-value CER % ↓")
    assert f1.low < f1.value < f1.high
    assert cer.low < cer.value < cer.high
    assert (f1.total, cer.errors, cer.over) == (
        None,
        cer.substitutions + cer.deletions + cer.insertions,
        "utterances",
    )
    weights = np.random.default_rng(0).integers(3, size=(2, len(answers))).astype(float)
    for row in weights:
        repeated = [a for a, times in zip(answers, row, strict=True) for _ in range(int(times))]
        assert F1.value(answers, row) == pytest.approx(F1.value(repeated))
        assert CER.value(answers, row) == pytest.approx(CER.value(repeated))


@pytest.mark.parametrize("metric", [F1, CER], ids=lambda metric: metric.name)
def test_two_systems_are_compared_by_utterance(metric: Any, texts: list[tuple[str, str]]) -> None:
    hypotheses, references = zip(*texts, strict=True)
    units = Units.of([str(n) for n in range(len(texts))])
    perfect, drawn = (metric.system(pair(references, each)) for each in (references, hypotheses))
    better = 1 if metric.higher_is_better else -1
    value, interval = paired_difference(perfect, drawn, units)
    assert better * value > 0
    assert min(better * interval.low, better * interval.high) > 0
    _, none = paired_difference(drawn, drawn, units)
    assert none.low <= 0 <= none.high
