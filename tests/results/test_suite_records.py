"""The records of a suite's rows: by recipe and keys, whatever else was evaluated into the folder."""

from dataclasses import replace
from typing import Any

import pytest

from builders import FIXTURES, record
from mt4ssl_bench import results
from mt4ssl_bench.downstream.plan import load_config
from mt4ssl_bench.downstream.suite import settings_of, with_keys
from mt4ssl_bench.results import suite_formats
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import Suite, SuiteRow
from mt4ssl_bench.results.suite_records import as_shipped, records_of_rows
from mt4ssl_bench.results.suite_table import SuiteTable, build, row_details

DRINK, SIZE = "labels=coffeeDrink", "labels=size"


def row(*keys: str, recipe: str = "intent_tiny", corpus: str = "coffee") -> SuiteRow:
    return SuiteRow(task="intent", recipe=recipe, corpus=corpus, keys=keys)


def made(model: str, value: float, *keys: str, **changes: Any) -> Result:
    """Return a record of the recipe intent_tiny with some keys."""
    config = load_config("intent_tiny", keys)
    fields: dict[str, Any] = {
        "task": "intent", "recipe_name": "intent_tiny", "settings": config.identity(),
        "mode": config.mode, "scheme": 2,
    }  # fmt: skip
    return replace(record(model, "speaker", value, corpus="coffee"), **fields | changes)


def table(rows: list[SuiteRow], *records: Result) -> SuiteTable:
    return build("ours", Suite(rows=rows), records, lambda _: (), settings_of)


def shown(made: SuiteTable) -> dict[str, list[str]]:
    """Return the values of each upstream, in the order of the columns."""
    return {
        line.upstream: [entry.text for entry in suite_formats.cells(made, line)[3:]]
        for line in made.lines
    }


def labels(made: SuiteTable) -> list[str]:
    return [column.label for column in made.columns]


def test_two_rows_that_differ_in_keys_show_their_own_records() -> None:
    found = table(
        [row(DRINK), row(SIZE)],
        made("a", 22.0, DRINK), made("a", 61.0, SIZE), made("b", 16.0, DRINK), made("b", 60.0, SIZE),
    )  # fmt: skip
    assert shown(found) == {"a": ["22.0", "61.0"], "b": ["16.0", "60.0"]}
    assert labels(found) == [f"intent (coffee, {keys}) ACC % ↑" for keys in (DRINK, SIZE)]
    assert found.notes == ()
    csv = suite_formats.to_csv(found).splitlines()
    assert {line.rpartition(",")[2] for line in csv[1:]} == {DRINK, SIZE}


def test_a_row_without_records_of_its_own_never_shows_those_of_another_row() -> None:
    found = table([row(DRINK), row(SIZE)], made("a", 22.0, DRINK))
    assert shown(found) == {"a": ["22.0"]}
    assert found.notes == (f"no record of intent, recipe intent_tiny with {SIZE}, on coffee",)


@pytest.mark.parametrize("keys", [(SIZE,), (DRINK, "steps=10"), (DRINK, "pass_precision=bf16")])
def test_a_later_run_with_other_keys_leaves_the_column_as_it_was(keys: tuple[str, ...]) -> None:
    later = [made(model, 61.0, *keys, created="2026-11-23") for model in "abc"]
    found = table([row(DRINK)], made("a", 22.0, DRINK), *later)
    assert shown(found) == {"a": ["22.0"]}
    assert found.notes == (
        "intent on coffee: 3 records of another corpus or other settings left out",
    )


def test_other_settings_are_shown_if_there_are_no_records_of_the_row_and_a_note_names_them() -> (
    None
):
    records = [made("a", 61.0, SIZE, "steps=10", "seeds=3"), made("b", 60.0, SIZE, "steps=10")]
    (only,) = table([row(DRINK)], records[1]).notes
    assert only == (
        "intent on coffee: no record has the settings of recipe intent_tiny with "
        f"{DRINK}; shown: labels=['size'] instead of ['coffeeDrink'], steps=10 instead of 1000"
    )
    found = table([row()], *records)
    assert shown(found) == {"b": ["60.0"]}, "the newest of equally common settings"
    first, second = found.notes
    assert first == (
        "intent on coffee: no record has the settings of recipe intent_tiny; shown: "
        "labels=['size'] instead of the default, steps=10 instead of 1000"
    )
    assert second == "intent on coffee: 1 records of another corpus or other settings left out"


def test_fine_tuning_is_another_setting() -> None:
    found = table([row(DRINK)], made("a", 22.0, DRINK), made("b", 30.0, DRINK, mode="finetune"))
    assert shown(found) == {"a": ["22.0"]}
    (note,) = table([row(DRINK)], made("b", 30.0, DRINK, mode="finetune")).notes
    assert note.endswith("shown: mode=finetune instead of frozen")


def test_rates_seeds_and_what_moves_no_score_may_differ() -> None:
    free = made("a", 22.0, DRINK, "seeds=1,2", "lr=0.1", "store.limit_gb=3")
    assert as_shipped(made("a", 22.0, "seeds=1,2", "sweep=[0.1]"), settings_of)
    assert not as_shipped(free, settings_of)
    found = table([row(DRINK, "store.limit_gb=9")], free)
    assert (shown(found), found.notes) == ({"a": ["22.0"]}, ())


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("seeds=1", "seeds=2", "seeds=[2] instead of [1]"),
        ("lr=0.1", "sweep=[0.01]", "sweep=[0.01] instead of [0.1]"),
    ],
)
def test_rates_and_seeds_that_a_row_names_are_its_own(
    one: str, other: str, difference: str
) -> None:
    found = table([row(one), row(other)], made("a", 1.0, one), made("a", 2.0, other))
    assert shown(found) == {"a": ["1.0", "2.0"]}
    assert labels(found) == [f"intent (coffee, {keys}) ACC % ↑" for keys in (one, other)]
    (note,) = table([row(one)], made("a", 2.0, other)).notes
    assert note.endswith(f"shown: {difference}")


def test_the_keys_of_a_command_go_to_the_rows_whose_tasks_have_them() -> None:
    rows = [row(DRINK), SuiteRow(task="humming", recipe="humming", corpus="coffee")]
    suite = with_keys(Suite(rows=rows), ["steps=10"])
    assert [each.keys for each in suite.rows] == [(DRINK, "steps=10"), ()]
    records = made("a", 22.0, DRINK), made("a", 9.0, DRINK, "steps=10")
    assert shown(table(suite.rows, *records)) == {"a": ["9.0"]}


def test_labels_name_only_what_tells_rows_apart() -> None:
    other = SuiteRow(task="asr", recipe="asr_tiny", corpus="coffee", keys=("steps=9",))
    assert row_details([row(DRINK), other]) == ["", ""]
    assert row_details([row(DRINK, "steps=9"), row(SIZE, "steps=9")]) == [DRINK, SIZE]
    assert row_details([row(), row(recipe="intent")]) == ["intent_tiny", "intent"]
    assert row_details([row(SIZE), row(SIZE)]) == ["row 1", "row 2"]
    assert row_details([row(SIZE), row(SIZE, corpus="tea")]) == ["", ""]


def test_a_recipe_that_is_not_there_leaves_settings_uncompared() -> None:
    records = [made("a", 22.0, DRINK, recipe_name="gone"), made("a", 9.0, SIZE, recipe_name="gone")]
    found = table([row(DRINK, recipe="gone")], *records)
    assert shown(found) == {"a": ["9.0"]}
    assert "intent on coffee: settings of recipe gone are not known here" in found.notes
    assert not as_shipped(records[0], settings_of)


OLD = FIXTURES / "revision_16264c9"
LEXICON = f"lexicon={OLD / 'lexicon.txt'}"


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("steps=10",), "phoneme-fbank-6412edcf1528105d"),
        (("steps=10", LEXICON), "phoneme-fbank-12d3cbcae96bad40"),
        (("steps=10", LEXICON, "stress=keep"), "phoneme-fbank-6480719064ab80b8"),
    ],
)
def test_records_of_scheme_1_have_their_columns(keys: tuple[str, ...], name: str) -> None:
    recipe = str(FIXTURES / "toy_phoneme.yaml")
    rows = [SuiteRow(task="phoneme", recipe=recipe, corpus="tones", keys=keys)]
    records = [results.load(path) for path in sorted(OLD.glob("*.json"))]
    (found,) = records_of_rows(rows, records, settings_of)
    assert [each.file for each in found.records.values()] == [OLD / f"{name}.json"]
    (note,) = found.notes
    assert "left out" in note
