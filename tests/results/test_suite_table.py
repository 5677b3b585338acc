"""The table of a suite: points over shared tasks, and published rows only beside their like."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from builders import record, rendered, score
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.downstream.suite import settings_of
from mt4ssl_bench.results import suite_formats
from mt4ssl_bench.results.grid import to_rich
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import Suite, SuiteRow
from mt4ssl_bench.results.suite_formats import headings, notes
from mt4ssl_bench.results.suite_records import as_shipped
from mt4ssl_bench.results.suite_table import SuiteLine, SuiteTable, build
from mt4ssl_bench.results.superb import points, superb

LIBRISPEECH = {"train": 28_539, "valid": 2_703, "test": 2_620}
VOXCELEB = {"train": 138_361, "valid": 6_904, "test": 8_251}
SOURCES = {"phoneme": "librispeech", "asr": "librispeech", "speaker": "voxceleb1"}
SUITE = Suite(
    about="three of ten",
    rows=[SuiteRow(task=task, recipe=task, corpus=source) for task, source in SOURCES.items()],
)
SETTINGS = {task: load_config(task).identity() for task in SOURCES}
LEXICONS = (
    "librispeech-lexicon-200k-g2p.txt (01234567), librispeech-lexicon-allothers-g2p.txt "
    "(89abcdef), first pronunciation"
)


def own(model: str, task: str, value: float, **changes: Any) -> Result:
    """Return a record on SUPERB's own corpus, by its full recipe."""
    source = SOURCES[task]
    sizes = VOXCELEB if task == "speaker" else LIBRISPEECH
    fields: dict[str, Any] = {
        "corpus": {
            "name": source, "digest": f"{source}-digest", "languages": ["en"], "synthetic": False,
            "splits": {role: {"utterances": n, "hours": 1.0} for role, n in sizes.items()},
            "source": source, "phones_from": LEXICONS,
        },
        "recipe_name": task, "settings": SETTINGS[task], "scheme": 2,
        "created": "2026-11-01T00:00:00+00:00",
    }  # fmt: skip
    return replace(record(model, task, value), **fields | changes)


def other(result: Result, **corpus: Any) -> dict[str, Any]:
    return {"corpus": {**result.corpus, **corpus}}


def table(*records: Result) -> SuiteTable:
    return build("three", SUITE, records, lambda _: (), settings_of)


def cells(made: SuiteTable, line: SuiteLine) -> list[str]:
    return [entry.whole for entry in suite_formats.cells(made, line)]


def measured(made: SuiteTable) -> list[list[str]]:
    return [cells(made, line) for line in made.lines if not line.source]


def test_a_recipe_is_as_shipped_with_other_rates_and_seeds_only() -> None:
    for task in SOURCES:
        assert as_shipped(own("a", task, 1.0), settings_of), task
        free = {"seeds": [1, 2], "over_seeds": "mean", "sweep": [1e-3]}
        changed = [SETTINGS[task] | free, SETTINGS[task] | {"steps": 3}]
        swept, shorter = (own("a", task, 1.0, settings=settings) for settings in changed)
        assert as_shipped(swept, settings_of)
        assert not as_shipped(shorter, settings_of)
        assert not as_shipped(own("a", task, 1.0, limit=5), settings_of)


def test_own_corpora_have_points_over_the_tasks_that_all_share_and_published_rows() -> None:
    made = table(
        own("a", "phoneme", 5.0), own("a", "asr", 6.0), own("a", "speaker", 80.0),
        own("b", "phoneme", 9.0), own("b", "asr", 5.0),
    )  # fmt: skip
    assert made.pointed == ("PR", "ASR")
    assert headings(made) == [
        "upstream", "params (M)", "points (PR+ASR)", "mean place",
        "PR PER % ↓", "ASR WER % ↓", "SID ACC % ↑",
    ]  # fmt: skip
    lines = {line.upstream: line for line in made.lines}
    expected = fmean([1000 * (5.0 - 82.01) / (3.53 - 82.01), 1000 * (6.0 - 23.18) / (3.62 - 23.18)])
    assert lines["a"].points == pytest.approx(expected)
    hubert = next(line for line in made.lines if line.upstream == "HuBERT Base")
    assert cells(made, hubert)[0] == "HuBERT Base (published)"
    assert cells(made, hubert)[4:] == ["5.41", "6.42", "81.42"]
    assert hubert.points == pytest.approx(
        points({"PR": {"per": 5.41}, "ASR": {"wer": 6.42}}, ["PR", "ASR"])
    )
    assert [line.source != "" for line in made.lines[:3]] == [False, False, True]
    assert any(note.startswith("published: superbbenchmark.org") for note in notes(made))
    assert not any("SUPERB score" in heading for heading in headings(made))


def test_places_and_sizes_of_many_upstreams_have_no_exponent() -> None:
    made = table(own("a", "phoneme", 5.0))
    (line, *_) = made.lines
    for place, parameters, shown in (
        (10.5, 999.6e6, ("999.6", "10.5")), (99.6, 2_162e6, ("2162.0", "99.6")), (3.0, 42_000, ("0.042", "3")),
    ):  # fmt: skip
        each = replace(line, rank=place, parameters=parameters)
        found = cells(replace(made, lines=(each,)), each)
        assert (found[1], found[3]) == shown


def test_ten_tasks_give_the_score() -> None:
    made = table(own("a", "phoneme", 5.0))
    whole = SuiteTable(
        title="", columns=made.columns, lines=(), pointed=tuple(superb()["tasks"]), notes=()
    )
    assert (made.points, whole.points) == ("points (PR)", "SUPERB score")


@pytest.mark.parametrize(
    "changes",
    [
        other(own("a", "phoneme", 5.0), source="table"),
        other(own("a", "phoneme", 5.0), splits={"test": {"utterances": 2_620, "hours": 5.0}}),
        {"settings": {"accumulate": 2, "steps": 10}},
        {"settings": {"accumulate": 2, "stress": "drop"}},
    ],
    ids=["another source", "a partial corpus", "another length", "another protocol"],
)
def test_anything_but_superbs_own_has_neither_points_nor_published_rows(changes: Any) -> None:
    made = table(own("a", "phoneme", 5.0, **changes))
    assert [line.upstream for line in made.lines] == ["a"]
    assert headings(made)[2:] == ["mean place", "phoneme (librispeech) PER % ↓"]


def test_old_records_that_do_not_say_their_source_have_no_points() -> None:
    result = own("a", "phoneme", 5.0)
    corpus = {key: value for key, value in result.corpus.items() if key != "source"}
    made = table(own("a", "phoneme", 5.0, corpus=corpus))
    assert not made.pointed
    assert any("source is not recorded" in note for note in notes(made))


def test_the_note_below_the_table_says_why_there_are_no_points() -> None:
    made = table(own("a", "phoneme", 5.0, **other(own("a", "phoneme", 5.0), phones_from="cmudict")))
    assert not made.pointed
    assert [line.upstream for line in made.lines] == ["a"]
    (note,) = [note for note in notes(made) if note.startswith("phoneme on librispeech")]
    assert "not PR of published rows, no points: phones_from is 'cmudict', expected" in note


def test_a_column_holds_one_corpus_and_one_protocol_and_says_what_it_leaves_out() -> None:
    again = own("b", "phoneme", 7.0)
    made = table(
        own("a", "phoneme", 5.0), again, own("a", "phoneme", 4.0, created="2026-11-02"),
        own("c", "phoneme", 1.0, **other(again, digest="prepared again")),
        own("a", "phoneme", 2.0, limit=3),
    )  # fmt: skip
    assert [row[0] for row in measured(made)] == ["a", "b"]
    assert measured(made)[0][4] == "4.0 [3.0, 6.0]", "the newest of repeated evaluations"
    assert (
        "phoneme on librispeech: 1 records of another corpus or other settings left out"
        in notes(made)
    )
    assert "no record of asr, recipe asr, on librispeech" in notes(made)


def test_a_corpus_of_another_name_is_found_by_its_folder() -> None:
    mine = own("a", "phoneme", 5.0)
    assert not table(replace(mine, **other(mine, name="mine"))).columns
    found = table(replace(mine, **other(mine, name="mine", folder="librispeech")))
    assert measured(found)[0][4] == "5.0 [4.0, 7.0]"


def test_rows_without_points_stand_by_their_mean_place() -> None:
    plain = {"source": "table"}
    made = table(
        *(own(model, "phoneme", value, **other(own("a", "phoneme", 1), **plain))
          for model, value in (("b", 9.0), ("a", 5.0), ("c", 7.0))),
    )  # fmt: skip
    assert [(row[0], row[2]) for row in measured(made)] == [("a", "1"), ("c", "2"), ("b", "3")]


def test_a_narrow_terminal_shows_every_number_whole() -> None:
    made = table(*(own("a", task, 50.0) for task in SOURCES))
    for width in (90, 40):
        shown = rendered(to_rich([suite_formats.grid(made)]), width=width)
        for entry in suite_formats.cells(made, made.lines[0])[4:]:
            assert entry.text in shown
            assert entry.below in shown
        assert max(map(len, shown.splitlines())) <= width


def test_several_seeds_show_their_spread() -> None:
    seeds = {"per": replace(score(5.0), sd=0.26, by_seed={"1": 4.8, "2": 5.2})}
    made = table(own("a", "phoneme", 5.0, metrics=seeds))
    assert measured(made)[0][4] == "5.0 ±0.3 [4.0, 7.0]"
    assert "±: standard deviation over seeds; the value is their mean" in notes(made)
