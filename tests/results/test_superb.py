"""SUPERB's points by its rule; and which records are on its corpora, by what they state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import record, score
from mt4ssl_bench.corpora.sources.libri2mix import Libri2Mix
from mt4ssl_bench.corpora.sources.quesst2014 import Quesst2014
from mt4ssl_bench.data.corpus_info import CorpusInfo, SplitInfo
from mt4ssl_bench.data.lexicon_files import open_lexicon
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.downstream.suite import settings_of
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_parts import corpus_record
from mt4ssl_bench.results.suite import read_suite
from mt4ssl_bench.results.superb import points, superb, superbs_own

LEXICONS = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
PHONES = f"{LEXICONS[0]} (0123abcd), {LEXICONS[1]} (4567cdef), first pronunciation"  # two digests
STATES: dict[str, dict[str, Any]] = {
    "PR": {"phones_from": PHONES},
    "SD": {"notes": dict(Libri2Mix().notes())},
    "QbE": {"notes": dict(Quesst2014().notes()), "left_out": 0},
}
SIZES = {
    "QbE": {"documents": 2_000, "valid": 100, "test": 100},
    "ASV": {"train": 143_768, "valid": 4_874, "test": 4_874},
}


def own(short: str, *keys: str, counts: dict[str, int] | None = None, **corpus: Any) -> Result:
    """Return a record on SUPERB's own corpus, with some recipe keys, and a corpus that differs."""
    task = superb()["tasks"][short]
    sizes = SIZES.get(short, task["utterances"])
    about: dict[str, Any] = {
        "name": task["source"], "digest": f"{task['source']}-digest", "languages": ["en"],
        "synthetic": False, "source": task["source"],
        "splits": {role: {"utterances": n, "hours": 1.0} for role, n in sizes.items()},
        **STATES.get(short, {}),
    }  # fmt: skip
    known = {"test_trials": 37_720} if short == "ASV" else {}
    metrics = {name: score(50.0, name) for name in task["metrics"]}
    return replace(
        record("a"),
        task=task["task"],
        recipe_name=task["task"],
        metrics=metrics,
        main_metric=next(iter(metrics)),
        scheme=2,
        settings=load_config(task["task"], keys).identity(),
        corpus={key: value for key, value in (about | corpus).items() if value is not None},
        counts=known if counts is None else counts,
    )


def sizes_of(short: str, **changes: int) -> dict[str, Any]:
    return {**own(short).corpus["splits"], **{k: {"utterances": n} for k, n in changes.items()}}


def mixtures(**options: Any) -> dict[str, Any]:
    return {"notes": dict(Libri2Mix(**options).notes())}


@pytest.mark.parametrize("row", superb()["rows"], ids=lambda row: row["upstream"])
def test_the_points_of_published_rows_are_their_published_scores(row: Any) -> None:
    tasks = list(superb()["tasks"])
    assert len(tasks) == 10
    assert points(row["values"], tasks) == pytest.approx(row["score"], abs=1.0)


def test_points_of_a_task_with_two_metrics_are_their_mean() -> None:
    values = {"SF": {"slot_type_f1": 69.64, "slot_value_cer": 21.76}}
    assert points(values, ["SF"]) == pytest.approx((0 + 1000) / 2)
    assert points({"SF": {"slot_type_f1": 80.0}}, ["SF"]) is None
    assert points(values, ["SF", "PR"]) is None


def test_tasks_corpora_and_metrics_of_the_facts_are_those_of_the_suite() -> None:
    rows = {row.task: row.corpus for row in read_suite("superb").rows}
    for short, task in superb()["tasks"].items():
        assert rows.pop(task["task"]) == task["source"]
        if task["task"] in TASKS:
            kind = TASKS.get(task["task"])
            names = [each if isinstance(each, str) else each.name for each in kind.metrics]
            assert kind.superb == short
            assert names[: len(task["metrics"])] == list(task["metrics"])
    assert not rows


@pytest.mark.parametrize("short", superb()["tasks"])
def test_records_on_superbs_corpora_are_its_own(short: str) -> None:
    assert superbs_own([own(short)], settings_of) == (short, "")
    assert superbs_own([own(short, *training(short))], settings_of) == ("", "")


def training(short: str) -> tuple[str, ...]:
    """Return a key that makes it another protocol."""
    return ("distance=cosine",) if short == "QbE" else ("steps=10",)


@pytest.mark.parametrize(
    ("short", "changes", "reason"),
    [
        ("PR", {"phones_from": "cmudict, first pronunciation"}, "phones_from is 'cmudict, first"),
        ("PR", {"phones_from": PHONES.partition(", ")[0] + ", first pronunciation"}, "is 'libri"),
        ("PR", {"splits": sizes_of("PR", test=2_619)}, "of test is 2619, expected 2620"),
        ("ASR", {"splits": sizes_of("ASR", train=28_538)}, "of train is 28538, expected 28539"),
        ("SD", mixtures(mode="min"), "notes.mixtures is 'min mix_both train-100, dev all'"),
        ("SD", mixtures(mixture="mix_clean"), "is 'max mix_clean train-100, dev all', expected"),
        ("QbE", {"notes": dict(Quesst2014(spoken="czech").notes())}, "language is 'czech'"),
        ("QbE", {"left_out": 3}, "left_out is 3, expected 0"),
        ("ASV", {"counts": {"test_trials": 37_611}}, "test_trials is 37611, expected 37720"),
        ("ASV", {"splits": sizes_of("ASV", train=143_000)}, "is 152748, expected 153516"),
        # version 0.02 of the training archive; fewer noises
        ("KS", {"splits": sizes_of("KS", train=84_843 + 1_800)}, "expected 52888"),
        ("KS", {"splits": sizes_of("KS", train=51_088 + 60, valid=6_798 + 60)}, "is 51148"),
        ("SID", {"splits": sizes_of("SID", test=8_250)}, "of test is 8250, expected 8251"),
        ("IC", {"splits": sizes_of("IC", valid=3_000)}, "of valid is 3000, expected 3118"),
        ("SF", {"splits": sizes_of("SF", train=104_671)}, "is 104671, expected 104672"),
        ("ER", {"splits": sizes_of("ER", test=5_530)}, "of test is 5530, expected 5531"),
    ],
)
def test_another_corpus_of_the_same_source_is_not_superbs(
    short: str, changes: dict[str, Any], reason: str
) -> None:
    found, note = superbs_own([own(short, **changes)], settings_of)
    assert found == ""
    assert reason in note
    assert note.startswith(f"{superb()['tasks'][short]['task']} on ")
    assert f"not {short} of published rows, no points: " in note
    assert "older records" not in note


OLD = {"notes": None, "phones_from": None, "left_out": None}


@pytest.mark.parametrize("short", superb()["tasks"])
def test_older_records_have_points_only_if_they_state_all_that_is_needed(short: str) -> None:
    found, note = superbs_own([own(short, **OLD)], settings_of)
    if short not in STATES:
        assert (found, note) == (short, "")
        return
    assert found == ""
    for key, value in STATES[short].items():
        name = f"{key}.{next(iter(value))}" if isinstance(value, dict) else key
        assert f"{name} is not recorded, expected " in note
    assert note.endswith("; older records lack it: evaluate into another folder")
    assert superbs_own([own(short), own(short, **OLD)], settings_of) == (short, "")
    _, note = superbs_own([own(short, **OLD, source=None)], settings_of)
    assert "source is not recorded" in note
    assert "prepare the corpus again (same digest) and evaluate into another folder" in note


def test_a_corpus_of_another_source_has_no_note() -> None:
    assert superbs_own([own("PR", source="table")], settings_of) == ("", "")
    mine = {"source": None, "splits": sizes_of("ASR", train=100)}
    assert superbs_own([own("ASR", **mine)], settings_of) == ("", "")
    tiny = replace(own("PR", phones_from="manifest"), recipe_name="phoneme_tiny")
    assert superbs_own([tiny], settings_of) == ("", "")


def test_s3prls_lexicons_are_told_by_their_names_and_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in LEXICONS]
    for file in files:
        file.write_text("LOW L OW1\n")
    for order, short in ((files, "PR"), (files[::-1], ""), (files[:1], "")):
        found, _ = superbs_own([own("PR", phones_from=open_lexicon(order).name)], settings_of)
        assert found == short


def test_the_corpus_of_a_record_states_what_its_preparation_noted() -> None:
    notes = {
        "source": "quesst2014", "citation": "Anguera", "homepage": "https://", "language": "czech",
        "missing": 2, "missing_examples": ["a", "b"], "list_rows": 1, "list_rows_examples": ["c"],
        "lexicon": {"words": 3, "missing": 1}, "check": {"duplicates": 4}, "turns_cut_off": 5,
    }  # fmt: skip
    info = CorpusInfo(
        name="q", digest="d", splits={}, fields=[], notes=notes, phones_from="manifest"
    )
    made = corpus_record(info, {"test": SplitInfo(utterances=3, hours=0.1, speakers=1)}, "folder")
    assert made == {
        "name": "q", "digest": "d", "languages": [], "synthetic": False, "source": "quesst2014",
        "splits": {"test": {"utterances": 3, "hours": 0.1}}, "folder": "folder",
        "notes": {"language": "czech"}, "phones_from": "manifest", "left_out": 3,
    }  # fmt: skip
