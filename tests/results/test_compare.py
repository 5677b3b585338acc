"""Records read by people: two upstreams compared utterance by utterance, and one record shown
whole.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mt4ssl_bench import results
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.results.answers import pair
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.metrics import METRICS, Metric, RatioOfSums, Score
from mt4ssl_bench.results.metrics.accuracy import wrong_answers
from mt4ssl_bench.results.metrics.error_rates import confusions
from mt4ssl_bench.results.record import SCHEME, Result
from mt4ssl_bench.results.show import report, sweep_tables

SENTENCES = [
    "AY L AY K DH IH S",
    "N OW B AA D IY N OW Z",
    "HH AW D UW Y UW D UW",
    "W EH R AA R Y UW",
] * 10
MAIN = {"phoneme": "per", "asr": "wer", "speaker": "acc"}


def spoil(sentence: str, every: int) -> str:
    """Leave out every n-th token."""
    return " ".join(token for i, token in enumerate(sentence.split()) if (i + 1) % every)


def save(
    folder: Path,
    model: str,
    said: list[str],
    *,
    task: str = "phoneme",
    order: int = 1,
    with_lm: list[str] | None = None,
    **changes: Any,
) -> Path:
    """Write a record of what `model` said to SENTENCES, in this order or backwards."""
    metric, answers = MAIN[task], pair(SENTENCES, said)
    names = ("wer", "cer") if task == "asr" else (metric,)
    scores: dict[str, Score] = {name: METRICS.get(name).score(answers) for name in names}
    if with_lm:
        again = pair(SENTENCES, with_lm)
        scores |= {f"{name}+lm": METRICS.get(name).score(again) for name in names}
    counts = METRICS.get(metric).counts(answers)
    assert counts is not None
    fields: dict[str, Any] = {
        "task": task, "task_version": 1, "main_metric": metric, "metrics": scores, "recipe_name": f"{task}_tiny",
        "upstream": {"name": model, "fingerprint": f"{len(said[0]):06}{model}", "parameters": 1, "num_layers": 2,
                     "dim": 4, "stride": 320},
        "corpus": {"name": "tones", "digest": "0123456789", "languages": ["en"], "synthetic": True, "splits": {}},
        "recipe": {"task": task, "steps": 100},
        "sweep": [{"lr": 0.1, "seed": 0, "valid": None, "steps": 0, "chosen": False},
                  {"lr": 0.01, "seed": 0, "valid": 12.5, "steps": 90, "chosen": True}],
        "layer_weights": [0.25, 0.75], "seeds": [0], "limit": None, "mode": "frozen", "versions": {}, "git": None,
        "device": "cpu", "wall_seconds": {"train": 3.0}, "counts": {"test_utterances": 40},
        "created": "2026-11-22T12:00:00+00:00",
    }  # fmt: skip
    for answer, (s, d, i, n) in zip(answers, counts.tolist(), strict=True):
        answer["id"] = f"u{answer['id']}"
        answer |= {"substitutions": s, "deletions": d, "insertions": i, "tokens": n}
    for answer, decoded in zip(answers, with_lm or [], strict=False):
        answer["with_lm"] = decoded
    return results.save(Result(**(fields | changes)), answers[::order], folder)


def text(shown: RenderableType) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(shown)
    return console.export_text()


GOOD, BAD = [spoil(s, 4) for s in SENTENCES], [spoil(s, 2) for s in SENTENCES]


def test_a_clear_difference_is_one_whatever_the_order_of_the_utterances(tmp_path: Path) -> None:
    save(tmp_path, "good", GOOD)
    save(tmp_path, "bad", BAD, order=-1)
    (found,) = compare("bad", "good", task="phoneme", folder=tmp_path)
    assert found.value == pytest.approx(found.a.value - found.b.value)
    assert found.low <= found.value <= found.high
    assert found.low > 15  # every second token against every fourth
    assert (found.units, found.a.over) == (40, "utterances")
    assert found.verdict("bad", "good") == "good is better"
    (back,) = compare("good", "bad", task="phoneme_tiny", folder=tmp_path)
    assert back.value == pytest.approx(-found.value)
    assert back.verdict("good", "bad") == "good is better"


def test_recipes_of_one_name_are_told_apart_by_what_they_set(tmp_path: Path) -> None:
    for model, said in (("good", GOOD), ("bad", BAD)):
        for steps in ({}, {"steps": 50}):
            save(tmp_path, model, said, settings={"batch": 8, **steps}, scheme=SCHEME)
    found = compare("bad", "good", task="phoneme", folder=tmp_path)
    names = ["phoneme_tiny, steps=50", "phoneme_tiny, steps=default"]
    assert sorted(each.recipe for each in found) == names
    save(tmp_path / "one", "good", GOOD, settings={"batch": 8}, scheme=SCHEME)
    save(tmp_path / "one", "bad", BAD, settings={"batch": 8}, scheme=SCHEME)
    (alone,) = compare("bad", "good", task="phoneme", folder=tmp_path / "one")
    assert alone.recipe == "phoneme_tiny"


def test_a_small_difference_is_not_called_one(tmp_path: Path) -> None:
    nearly = [*GOOD[:-2], SENTENCES[-2], BAD[-1]]  # one better, one worse
    save(tmp_path, "good", GOOD)
    save(tmp_path, "nearly", nearly)
    (found,) = compare("good", "nearly", task="phoneme", folder=tmp_path)
    assert found.low < 0 < found.high
    assert "no difference can be told between good and nearly" in found.verdict("good", "nearly")


def test_every_metric_is_compared_in_its_own_tokens(tmp_path: Path) -> None:
    save(tmp_path, "good", GOOD, task="asr", with_lm=SENTENCES)
    save(tmp_path, "bad", BAD, task="asr", with_lm=GOOD)
    found = compare("good", "bad", task="asr", folder=tmp_path)
    assert [each.metric for each in found] == ["wer", "cer", "wer+lm", "cer+lm"]
    assert found[2].a.value == 0.0
    for each in found:
        assert each.value == pytest.approx(each.a.value - each.b.value)


def test_higher_accuracy_is_better(tmp_path: Path) -> None:
    save(tmp_path, "all", SENTENCES, task="speaker")
    save(tmp_path, "none", BAD, task="speaker")
    (found,) = compare("all", "none", task="speaker", folder=tmp_path)
    assert (found.value, found.high) == (100.0, 100.0)
    assert found.low == pytest.approx(82.4, abs=0.1)  # 40 of 40 are no certainty
    assert found.method == "exact"
    assert found.verdict("all", "none") == "all is better"


@pytest.mark.parametrize(("task", "metric"), [("speaker", "acc"), ("phoneme", "per")])
def test_identical_answers_are_no_proof_of_equality(tmp_path: Path, task: str, metric: str) -> None:
    save(tmp_path, "one", SENTENCES, task=task)
    save(tmp_path, "two", SENTENCES, task=task)
    (found,) = compare("one", "two", task=task, folder=tmp_path)
    assert (found.metric, found.value, found.method) == (metric, 0.0, "exact")
    assert found.low == -found.high
    assert found.high == pytest.approx(8.8, abs=0.1)  # 0 of 40 utterances
    assert "no difference can be told" in found.verdict("one", "two")


def test_a_secondary_metric_is_compared_by_its_own_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sentence errors: the main metric's edits are others
    ser = Metric(name="ser", value=RatioOfSums(counts=wrong_answers))
    known = METRICS.get
    monkeypatch.setattr(METRICS, "get", lambda name: ser if name == "ser" else known(name))
    monkeypatch.setattr("mt4ssl_bench.results.recorded_metrics.installed", METRICS.get)
    for name, said in (("good", GOOD), ("right", SENTENCES)):
        answers = pair(SENTENCES, said)
        scores = {metric: METRICS.get(metric).score(answers) for metric in ("wer", "ser")}
        save(tmp_path, name, said, task="asr", metrics=scores)
    found = {each.metric: each for each in compare("good", "right", task="asr", folder=tmp_path)}
    sentences = found["ser"]
    assert (sentences.a.value, sentences.b.value, sentences.value) == (100.0, 0.0, 100.0)
    assert found["wer"].value == pytest.approx(found["wer"].a.value)
    assert found["wer"].value < 30


def test_a_metric_without_a_definition_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good", "bad"):
        score = METRICS.get("per").score(pair(SENTENCES, GOOD))
        save(tmp_path, name, GOOD, metrics={"per": score, "gone": score})
    (found,) = compare("good", "bad", task="phoneme", folder=tmp_path)
    assert found.metric == "per"
    assert "gone cannot be compared: metric 'gone' is not installed" in caplog.text


def test_an_older_record_without_width_is_given_an_interval(tmp_path: Path) -> None:
    path = save(tmp_path, "all", SENTENCES, task="speaker")
    values = json.loads(path.read_text())
    values["metrics"]["acc"] |= {"low": 100.0, "high": 100.0}
    for key in ("method", "speaker_method", "title", "unit", "order", "over"):
        del values["metrics"]["acc"][key]
    path.write_text(json.dumps(values))
    score = results.load(path).metrics["acc"]
    assert score == METRICS.get("acc").score(pair(SENTENCES, SENTENCES))


def test_models_of_one_name_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    save(tmp_path, "good", GOOD)
    save(tmp_path, "twin", BAD)
    save(tmp_path, "twin", GOOD)
    with pytest.raises(BenchError, match="'twin' is 2 models.*name one: twin@0000.*, twin@0000"):
        compare("good", "twin", task="phoneme", folder=tmp_path)
    (found,) = compare("good", f"twin@{len(BAD[0]):06}", task="phoneme", folder=tmp_path)
    assert found.low < found.value < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {"name": "digits", "digest": "9876543210", "languages": [], "synthetic": True, "splits": {}}},
         "one was measured on tones .*, the other on digits"),
        ({"recipe": {"task": "phoneme", "steps": 7}}, r"recipes differ in steps \(100, 7\)"),
        ({"mode": "finetune"}, "frozen.*finetune"),
    ],
)  # fmt: skip
def test_what_is_not_measured_alike_is_not_compared(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    a, b = save(tmp_path, "good", GOOD), save(tmp_path, "bad", BAD, **changes)
    for names in (("good", "bad"), (str(a), str(b))):
        with pytest.raises(BenchError, match=message):
            compare(*names, task="phoneme", folder=tmp_path)


def test_names_that_find_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no record of task 'phoneme'"):
        compare("good", "bad", task="phoneme", folder=tmp_path)
    path = save(tmp_path, "good", GOOD)
    save(tmp_path, "dry", GOOD, limit=3)
    with pytest.raises(BenchError, match="no record of 'goood'.*did you mean good"):
        compare("good", "goood", task="phoneme", folder=tmp_path)
    save(tmp_path, "bad", BAD)
    run = tmp_path / "runs" / "good"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").touch()  # as `evaluate` was given it
    named, run_named = (
        compare("bad", name, task="phoneme", folder=tmp_path) for name in ("good", str(run))
    )
    assert run_named == named
    with pytest.raises(BenchError, match="no record of 'dry'"):
        compare("good", "dry", task="phoneme", folder=tmp_path)
    with pytest.raises(BenchError, match="same record"):
        compare("good", str(path), task="phoneme", folder=tmp_path)


def test_records_with_other_utterances_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "good", GOOD)
    path = results.hypotheses_path(save(tmp_path, "bad", BAD))
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(BenchError, match="1 are in only one, for example 'u39'"):
        compare("good", "bad", task="phoneme", folder=tmp_path)


def test_records_with_other_references_are_refused_where_there_is_only_one(tmp_path: Path) -> None:
    for choice in ("first", "all"):
        folder, recipe = tmp_path / choice, {"task": "phoneme", "pronunciations": choice}
        save(folder, "good", GOOD, recipe=recipe)
        path = results.hypotheses_path(save(folder, "bad", BAD, recipe=recipe))
        path.write_text(path.read_text().replace("AY L AY K", "AY L AY", 1))
    assert compare("good", "bad", task="phoneme", folder=tmp_path / "all")[0].units == 40
    with pytest.raises(BenchError, match="different references of 1 utterances, for example 'u0'"):
        compare("good", "bad", task="phoneme", folder=tmp_path / "first")


def test_confusions_count_what_was_said_for_what() -> None:
    found = confusions(pair(["A B C", "A B C", "A"], ["A X C", "A X C Y", ""]))
    assert found == {("B", "X"): 2, ("", "Y"): 1, ("A", ""): 1}


def test_a_report_holds_everything_a_record_says(tmp_path: Path) -> None:
    said = [*GOOD[:-1], ""]
    shown = text(report(save(tmp_path, "good", said)))
    for part in ("good (", "PER % ↓", "diverged", "12.50 (90)", "0.750", "█" * 20, "most confused phonemes",
                 "(left out)", "u39", "0/7/0", "(nothing)", "test_utterances 40"):  # fmt: skip
        assert part in shown
    assert "█" * 21 not in shown
    assert "partial" not in shown


def test_a_report_names_a_partial_result(tmp_path: Path) -> None:
    shown = text(report(save(tmp_path, "good", GOOD, limit=8)))
    assert "frozen; partial: 8 utterances per split" in shown.splitlines()[0]


def test_a_report_has_the_score_of_every_fold(tmp_path: Path) -> None:
    path = save(tmp_path, "good", GOOD, folds={"1": 71.568, "2": 60.0})
    rows = [row.split() for row in text(report(path)).partition("test by fold")[2].splitlines()]
    assert ["1", "71.57"] in rows
    assert ["2", "60.00"] in rows
    assert "by fold" not in text(report(save(tmp_path, "other", GOOD)))


def test_layers_are_compared_by_weight_times_norm(tmp_path: Path) -> None:
    loud = save(tmp_path, "loud", GOOD, layer_weights=[0.2, 0.8], layer_norms=[40.0, 2.0])
    lines = text(report(loud)).splitlines()
    (first,) = [line for line in lines if line.split()[:2] == ["0", "0.200"]]
    (second,) = [line for line in lines if line.split()[:2] == ["1", "0.800"]]
    assert [part in first for part in ("0.200", "40", "8", "█" * 20)] == [True] * 4
    assert [part in second for part in ("0.800", "2", "1.6", "█" * 4)] == [True] * 4
    assert "█" * 5 not in second
    assert any("weight x norm: size of the layer's part in the sum" in line for line in lines)
    old = text(report(save(tmp_path, "old", GOOD)))
    assert "this record has no norms" in old
    assert "mean norm" not in old


def test_a_speakers_name_is_one_thing_to_be_confused_with(tmp_path: Path) -> None:
    shown = text(report(save(tmp_path, "good", [*SENTENCES[:-1], "SOMEBODY ELSE"], task="speaker")))
    assert "most confused answers (1 errors)" in shown
    assert "SOMEBODY ELSE" in shown


def test_sweeps_stand_side_by_side_for_each_recipe(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        save(tmp_path, name, GOOD if name == "good" else BAD)
    save(tmp_path, "good", GOOD, task="asr")
    shown = text(sweep_tables(results.load_all(tmp_path)))
    assert shown.count("on valid by learning rate") == 2
    assert shown.count("12.50 (90)") == 3
    assert shown.index("0.1 ") < shown.index("0.01")
