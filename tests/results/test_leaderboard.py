"""The ranking is a pure function of records: every test builds its records and reads the tables."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builders import accuracy, invoke, score
from builders import record as a_result
from mt4ssl_bench import results
from mt4ssl_bench.errors import BenchError, CheckpointError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.compare import compare
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_files import answers_beside
from mt4ssl_bench.results.table import SYNTHETIC, Table
from mt4ssl_bench.text import flat, markdown


def three_tasks(model: str, per: float, wer: float, acc: float) -> list[Result]:
    return [
        a_result(model, "phoneme", per),
        a_result(model, "asr", wer),
        a_result(model, "speaker", acc),
    ]


def only_table(records: list[Result]) -> Table:
    (table,) = Leaderboard(records).tables
    return table


def as_text(board: Leaderboard, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(board.to_rich())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rows_are_ordered_by_their_mean_rank_over_main_metrics() -> None:
    # a: ranks 1, 2, 1; b: 2, 1, 3; c: 3, 3, 2
    records = (
        three_tasks("c", 30, 60, 80) + three_tasks("b", 20, 40, 70) + three_tasks("a", 10, 50, 90)
    )
    table = only_table(records)
    assert [(row.upstream, row.rank) for row in table.rows] == [("a", 1), ("b", 2), ("c", 3)]
    assert [row.mean_rank for row in table.rows] == [
        pytest.approx(4 / 3),
        pytest.approx(2.0),
        pytest.approx(8 / 3),
    ]


def test_columns_stand_in_the_order_of_tasks_with_their_directions() -> None:
    assert only_table(list(reversed(three_tasks("a", 10, 20, 90)))).headings() == [
        "rank",
        "upstream",
        "params (M)",
        "phoneme PER % ↓",
        "asr WER % ↓",
        "asr CER % ↓",
        "speaker ACC % ↑",
    ]


def test_the_secondary_metric_does_not_rank() -> None:
    records = [a_result("a", "asr", 10), a_result("b", "asr", 20)]
    records[1].metrics["cer"] = score(1, "cer")
    table = only_table(records)
    assert [row.upstream for row in table.rows] == ["a", "b"]
    assert [column.ranked for column in table.columns] == [True, False]


def test_equal_rows_share_a_rank() -> None:
    records = [
        a_result(model, "phoneme", value) for model, value in (("a", 10), ("b", 10), ("c", 20))
    ]
    assert [(row.upstream, row.rank) for row in only_table(records).rows] == [
        ("a", 1),
        ("b", 1),
        ("c", 3),
    ]


def test_the_rank_is_over_the_tasks_that_all_rows_share() -> None:
    records = [
        *three_tasks("a", 50, 50, 50),
        a_result("best", "phoneme", 1),
        *three_tasks("b", 40, 40, 60),
    ]
    table = only_table(records)
    assert [(row.upstream, row.rank) for row in table.rows] == [("best", 1), ("b", 2), ("a", 3)]
    lines = Leaderboard(records).to_markdown().splitlines()
    assert "| 1 | best | 94.7 | 1 of 3 | **1.0** [0.0, 3.0] | - | - | - |" in lines
    assert "* rank: mean place over phoneme PER % ↓, which all 3 ranked rows share" in lines
    assert table.headings()[:4] == ["rank", "upstream", "params (M)", "tasks"]


@pytest.mark.parametrize("last", [[], [a_result("a", "speaker", 50)], [a_result("b", "asr", 1)]])
def test_one_more_result_takes_no_rank_from_the_others(last: list[Result]) -> None:
    records = [a_result(model, "phoneme", 10 + i) for i, model in enumerate("abc")]
    table = only_table(records + last)
    assert [(row.upstream, row.rank) for row in table.rows] == [("a", 1), ("b", 2), ("c", 3)]
    assert table.gaps == bool(last)


def test_without_a_task_in_all_rows_those_of_the_commonest_task_are_ranked() -> None:
    records = [
        *(a_result("a", task, 10) for task in ("phoneme", "asr")),
        *(a_result("b", task, 20) for task in ("phoneme", "asr")),
        a_result("c", "speaker", 99),
    ]
    table = only_table(records)
    assert [(row.upstream, row.rank, row.tasks) for row in table.rows] == [
        ("a", 1, 2),
        ("b", 2, 2),
        ("c", None, 1),
    ]
    assert [column.label for column in table.columns if column.ranked] == [
        "phoneme PER % ↓",
        "asr WER % ↓",
    ]


def save_answers(
    folder: Path, model: str, wrong: set[int], number: int = 40, **changes: Any
) -> Result:
    """Save a record of speaker identification whose utterances `wrong` are wrong."""
    right = accuracy([index not in wrong for index in range(number)])
    record = a_result(model, "speaker", 0, metrics={"acc": right}, **changes)
    rows: list[Answer] = [
        {"id": f"u{index}", "speaker": None, "reference": "x", "hypothesis": "y" if bad else "x",
         "substitutions": int(bad), "deletions": 0, "insertions": 0, "tokens": 1}
        for index, bad in ((index, index in wrong) for index in range(number))
    ]  # fmt: skip
    results.save(record, rows, folder)
    return record


def test_rows_that_compare_cannot_tell_apart_share_a_rank(tmp_path: Path) -> None:
    save_answers(tmp_path, "one", {1, 2, 3})
    save_answers(tmp_path, "two", {1, 2, 4, 5})  # one better, but not by the paired bootstrap
    save_answers(tmp_path, "bad", set(range(20)))
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert [(row.upstream, row.rank) for row in table.rows] == [("one", 1), ("two", 1), ("bad", 3)]
    assert table.by_value == ()
    assert any("rows that cannot be told apart have equal places" in note for note in table.notes())
    for names, clear in ((("one", "two"), False), (("one", "bad"), True)):
        (found,) = compare(*names, task="speaker", folder=tmp_path)
        assert (found.low > 0) == clear


def test_a_row_without_answers_is_placed_by_value_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_answers(tmp_path, "one", {1, 2, 3})
    record = save_answers(tmp_path, "two", {1, 2, 4, 5})
    save_answers(tmp_path, "other", {1}, number=30)  # other utterances
    results.hypotheses_path(results.record_path(record, tmp_path)).unlink()
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert [(row.upstream, row.rank) for row in table.rows] == [
        ("other", 1),
        ("one", 2),
        ("two", 3),
    ]
    assert "two" in table.by_value
    assert any("placed by value" in note and "two" in note for note in table.notes())
    assert "its row is placed by value" in caplog.text


def test_a_score_interval_is_marked_and_explained(tmp_path: Path) -> None:
    save_answers(tmp_path, "all", set(), number=3)
    text = Leaderboard.from_folder(tmp_path).to_markdown()
    assert "| **100.0** [43.9, 100.0]^ |" in text
    assert "* ^: score interval (Wilson)" in text
    assert "wilson" in Leaderboard.from_folder(tmp_path).to_csv()
    assert "^" not in Leaderboard(three_tasks("a", 1, 2, 3)).to_markdown()


NAMES = [
    "<script>alert(1)</script>", "two\nlines", "a|b", "`x`", "*x*", "[x](http://y)", "_x_", "a&lt;b", "# x",
    "\x1b[31mred", "\u202egnp", '"quoted"', "=1+1", "@SUM(A1)", "-1", "+1", "\t=cmd()", "\r\n=x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_text_in_every_output(name: str) -> None:
    record = a_result(name, "phoneme", 1, corpus=name, recipe_name=name)
    board = Leaderboard([record, a_result("b", "phoneme", 2, corpus=name, limit=3)])
    shown = markdown(name)
    lines = board.to_markdown().splitlines()
    assert f"| 1 | {shown} | 94.7 | **1.0** [0.0, 3.0] |" in lines
    assert not re.search(r"(?<!\\)[`<>]|(?<!\\)\[x|\x1b|\u202e", "\n".join(lines))
    cell = next(csv.DictReader(io.StringIO(board.to_csv())))
    for key in ("upstream", "corpus_name", "recipe"):
        assert cell[key].lstrip("'").strip() == flat(name).strip()
        assert not cell[key].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert "\n" not in cell[key]
    assert json.loads(board.to_json())["tables"][0]["rows"][0]["upstream"] == name
    terminal = as_text(board)
    assert flat(name).strip() in terminal
    assert not re.search("\x1b|\u202e", terminal)


def test_the_best_of_each_column_is_bold_whichever_its_direction() -> None:
    lines = (
        Leaderboard(three_tasks("a", 43.1, 20, 90) + three_tasks("b", 50, 10, 80))
        .to_markdown()
        .splitlines()
    )
    # ranks of a: 1, 2, 1; of b: 2, 1, 2
    (a,) = [line for line in lines if line.startswith("| 1 | a ")]
    (b,) = [line for line in lines if line.startswith("| 2 | b ")]
    assert a == (
        "| 1 | a | 94.7 | **43.1** [42.1, 45.1] | 20.0 [19.0, 22.0] | 10.0 [9.0, 12.0] | **90.0** "
        "[89.0, 92.0] |"
    )
    assert b == (
        "| 2 | b | 94.7 | 50.0 [49.0, 52.0] | **10.0** [9.0, 12.0] | **5.0** [4.0, 7.0] | 80.0 "
        "[79.0, 82.0] |"
    )


def test_corpora_are_never_mixed_even_under_one_name() -> None:
    other = a_result("b", "phoneme", 5)
    other.corpus["digest"] = "another-digest"
    board = Leaderboard(
        [a_result("a", "phoneme", 10), other, a_result("c", "phoneme", 1, corpus="zzz")]
    )
    assert [
        (table.corpus["name"], [row.upstream for row in table.rows]) for table in board.tables
    ] == [
        ("demo", ["b"]),
        ("demo", ["a"]),
        ("zzz", ["c"]),
    ]
    assert all(row.rank == 1 for table in board.tables for row in table.rows)


def test_another_recipe_gets_a_column_of_its_own_and_does_not_rank() -> None:
    records = [
        a_result("a", "phoneme", 20),
        a_result("b", "phoneme", 10),
        a_result("c", "phoneme", 30),
        a_result("long", "phoneme", 1, recipe={"task": "phoneme", "steps": 100_000}),
    ]
    table = only_table(records)
    assert [(row.upstream, row.rank) for row in table.rows] == [
        ("b", 1),
        ("a", 2),
        ("c", 3),
        ("long", None),
    ]
    assert [column.ranked for column in table.columns] == [True, False]
    assert [[cell and cell.best for cell in row.cells] for row in table.rows] == [
        [True, None],
        [False, None],
        [False, None],
        [None, True],
    ]
    first, second = table.headings()[4:]
    assert first.startswith("phoneme PER % ↓ (phoneme_tiny@")
    assert first != second


@pytest.mark.parametrize(
    "change", [{"task_version": 2}, {"mode": "finetune"}, {"recipe_name": "phoneme"}]
)
def test_task_version_mode_and_recipe_name_part_columns(change: dict[str, Any]) -> None:
    table = only_table([a_result("a", "phoneme", 20), a_result("b", "phoneme", 10, **change)])
    assert len(table.columns) == 2


def test_dry_runs_are_listed_and_never_ranked() -> None:
    board = Leaderboard([a_result("a", "phoneme", 20), a_result("dry", "phoneme", 1, limit=8)])
    assert [row.upstream for table in board.tables for row in table.rows] == ["a"]
    assert board.dry_runs == ["dry: phoneme PER 1.0 % (limit 8, recipe phoneme_tiny, corpus demo)"]
    for text in (board.to_markdown(), as_text(board)):
        assert "partial results (not ranked)" in text
        assert board.dry_runs[0] in text
    assert "dry" not in board.to_csv()


def test_only_dry_runs_make_no_table() -> None:
    board = Leaderboard([a_result("dry", "phoneme", 1, limit=8)])
    assert board.tables == []
    assert "dry: phoneme" in board.to_markdown()


def test_of_repeated_evaluations_the_newest_counts() -> None:
    new = a_result("a", "phoneme", 20, created="2026-11-23T00:00:00+00:00")
    for records in ([new, a_result("a", "phoneme", 10)], [a_result("a", "phoneme", 10), new]):
        (row,) = only_table(records).rows
        assert row.cells[0] is not None
        assert row.cells[0].score.value == 20


def test_models_that_share_a_name_show_their_fingerprints() -> None:
    one, other = a_result("a", "phoneme", 10), a_result("a", "phoneme", 20)
    one.upstream["fingerprint"], other.upstream["fingerprint"] = "1234567890", "abcdef7890"
    assert [row.upstream for row in only_table([one, other]).rows] == ["a@123456", "a@abcdef"]


def test_the_title_names_the_corpus_and_the_size_of_its_test_split() -> None:
    assert (
        only_table(three_tasks("a", 1, 1, 1)).title
        == "demo (demo-012); en; test: 120 utterances, 0.25 h"
    )


def test_the_title_tells_test_splits_apart_by_task() -> None:
    records = three_tasks("a", 1, 1, 1)
    records[2].corpus["splits"] = {"test": {"utterances": 60, "hours": 0.1}}
    assert only_table(records).title == (
        "demo (demo-012); en; test: 120 utterances, 0.25 h (phoneme, asr), 60 utterances, 0.10 h "
        "(speaker)"
    )


def test_synthetic_speech_is_named_as_what_it_is() -> None:
    record = a_result("a", "phoneme", 1)
    assert SYNTHETIC not in Leaderboard([record]).to_markdown()
    record.corpus["synthetic"] = True
    board = Leaderboard([record])
    assert SYNTHETIC in board.to_markdown()
    assert SYNTHETIC in as_text(board)


def test_the_chosen_learning_rates_stand_below_with_their_recipe() -> None:
    records = [a_result("a", "phoneme", 1), a_result("b", "phoneme", 2, lr=1e-5)]
    recipe = records[0].identity.protocol[:8]
    assert f"* phoneme: recipe phoneme_tiny ({recipe}), frozen; lr: a 0.01, b 1e-05" in (
        Leaderboard(records).to_markdown().splitlines()
    )


def test_the_terminal_shows_the_same_numbers() -> None:
    text = as_text(Leaderboard(three_tasks("a|[bold]x", 43.1, 20, 90)))
    for part in ("phoneme PER % ↓", "speaker ACC % ↑", "43.1 [42.1, 45.1]", "94.7", "a|[bold]x"):
        assert part in text


def test_a_narrow_terminal_does_not_cut_the_names() -> None:
    assert "wav2vec2_base_960" in as_text(
        Leaderboard(three_tasks("wav2vec2_base_960", 1, 2, 3)), width=80
    )


def recipes(number: int) -> list[Result]:
    return [a_result("a", "phoneme", 40 + i, recipe={"steps": i}) for i in range(number)] + [
        a_result("b", "phoneme", 30, recipe={"steps": 0})
    ]


def test_recipes_that_do_not_fit_side_by_side_stand_below_each_other() -> None:
    board = Leaderboard(recipes(12))
    text = as_text(board, width=120)
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    tops = [line for line in text.splitlines() if line.startswith("rank")]
    assert len(tops) > 1
    for value in range(40, 52):  # each number once, none is cut
        assert len(re.findall(rf"(?<!\[){value}\.0(?!\])", text)) >= 1
        assert text.count(f"[{value - 1}.0, {value + 2}.0]") == 1
    rows = [line.split() for line in text.splitlines()]
    assert sum(row[1:2] == ["b"] for row in rows) == 1  # left out where it has no number
    wide = as_text(board, width=1000).splitlines()
    assert len([line for line in wide if line.startswith("rank  ")]) == 1


def test_a_bar_in_a_name_does_not_break_the_markdown() -> None:
    assert "| 1 | a\\|b | 94.7 |" in Leaderboard([a_result("a|b", "phoneme", 1)]).to_markdown()


def test_small_models_do_not_show_as_zero_parameters() -> None:
    record = a_result("a", "phoneme", 1)
    record.upstream["parameters"] = 123_456
    assert "| 1 | a | 0.12 |" in Leaderboard([record]).to_markdown()


def test_csv_parses_back_into_the_records_numbers() -> None:
    board = Leaderboard(
        [*three_tasks("a,b", 43.1, 20, 90), a_result("c", "phoneme", 50, corpus="other")]
    )
    lines = list(csv.DictReader(io.StringIO(board.to_csv())))
    assert [(line["upstream"], line["corpus_name"], line["metric"]) for line in lines] == [
        ("a,b", "demo", "per"),
        ("a,b", "demo", "wer"),
        ("a,b", "demo", "cer"),
        ("a,b", "demo", "acc"),
        ("c", "other", "per"),
    ]
    first = lines[0]
    assert float(first["value"]) == 43.1
    assert (float(first["low"]), float(first["high"])) == (42.1, 45.1)
    assert (first["errors"], first["total"], first["lr"]) == ("20", "100", "0.01")
    assert (first["fingerprint"], first["corpus_digest"]) == ("a,b-weights", "demo-0123456789")
    assert (first["task"], first["recipe"], first["rank"]) == ("phoneme", "phoneme_tiny", "1")
    assert [line["higher_is_better"] for line in lines[:4]] == ["False", "False", "False", "True"]
    assert first["speaker_low"] == ""


def test_json_holds_the_tables_and_the_dry_runs() -> None:
    board = Leaderboard([a_result("a", "phoneme", 43.1), a_result("b", "phoneme", 1, limit=4)])
    content = json.loads(board.to_json())
    assert content["tables"][0]["rows"][0]["cells"][0]["score"]["value"] == 43.1
    assert content["tables"][0]["columns"][0]["recipe"][:2] == ["phoneme", "phoneme_tiny"]
    assert len(content["dry_runs"]) == 1


def test_a_folder_of_saved_records_gives_the_same_tables(tmp_path: Path) -> None:
    records = three_tasks("a", 43.1, 20, 90) + three_tasks("b", 50, 10, 80)
    for record in records:
        results.save(record, [], tmp_path)
    assert Leaderboard.from_folder(tmp_path).to_json() == Leaderboard(records).to_json()


def test_a_model_under_its_former_fingerprint_is_the_same_row(tmp_path: Path) -> None:
    old = a_result("a", "phoneme", 40)
    new = a_result("a", "asr", 20, scheme=2)
    new.upstream.update({"fingerprint": "v2-a", "former": ["a-weights"]})
    for record in (old, new):
        results.save(record, [], tmp_path)
    ((row,),) = (table.rows for table in Leaderboard.from_folder(tmp_path).tables)
    assert (row.fingerprint, row.tasks) == ("v2-a", 2)


@pytest.mark.parametrize("created", ["2026-11-21T12:00:00+00:00", "2026-11-23T12:00:00+00:00"])
def test_records_of_both_schemes_are_ranked_by_their_answers(tmp_path: Path, created: str) -> None:
    """A record of today lists the present fingerprint among the former ones."""
    save_answers(tmp_path, "a", set(range(20)))  # of scheme 1
    save_answers(tmp_path, "b", {1, 2, 3}, **today("b"))
    save_answers(tmp_path, "a", {1}, **today("a"), recipe_name="other", created=created)
    (table,) = Leaderboard.from_folder(tmp_path).tables
    first, *_ = table.columns
    assert (first.recipe[1], first.ranked) == ("speaker_tiny", True)
    assert [(row.upstream, row.fingerprint, row.rank) for row in table.rows] == [
        ("b", "v2-b", 1),
        ("a", "v2-a", 2),
    ]
    assert table.by_value == ()
    records = results.load_all(tmp_path)
    assert Leaderboard(records, answers_beside).tables == [table]
    assert invoke("leaderboard", tmp_path, "--format", "csv") == 0


def today(model: str) -> dict[str, Any]:
    """Return what a record of scheme 2 has of a model that had another fingerprint before."""
    upstream = a_result(model).upstream
    former = [f"v2-{model}", upstream["fingerprint"]]
    return {
        "scheme": 2,
        "settings": {"steps": 100},
        "upstream": {**upstream, "fingerprint": f"v2-{model}", "former": former},
    }


def test_a_record_knows_its_file_and_does_not_store_it(tmp_path: Path) -> None:
    path = results.save(a_result(), [], tmp_path)
    loaded = results.load(path)
    assert (loaded.file, loaded) == (path, a_result())
    copied = results.save(loaded, [], tmp_path / "copy")
    assert copied.read_text() == path.read_text()
    assert "file" not in json.loads(path.read_text())


def test_a_place_in_a_record_decides_the_order_of_tasks() -> None:
    records = three_tasks("a", 1, 2, 3)
    assert [c.recipe[0] for c in only_table(records).columns] == [
        "phoneme",
        "asr",
        "asr",
        "speaker",
    ]
    records[2].metrics["acc"] = dataclasses.replace(records[2].main, order=5, title="SID")
    headings = only_table(records).headings()
    assert headings[3:5] == ["speaker SID % ↑", "phoneme PER % ↓"]


def test_an_older_record_without_titles_and_places_has_its_old_columns(tmp_path: Path) -> None:
    for record in three_tasks("a", 1, 2, 3):
        path = results.save(record, [], tmp_path)
        values = json.loads(path.read_text())
        for column in values["metrics"].values():
            for key in ("title", "unit", "order", "over"):
                del column[key]
        path.write_text(json.dumps(values))
    (table,) = Leaderboard.from_folder(tmp_path).tables
    assert table.headings()[3:] == only_table(three_tasks("a", 1, 2, 3)).headings()[3:]


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BenchError, match=r'no result records in .*"mt4ssl-bench evaluate"'):
            Leaderboard.from_folder(folder)


def test_a_damaged_record_is_not_skipped_in_silence(tmp_path: Path) -> None:
    results.save(a_result("a", "phoneme", 1), [], tmp_path)
    (tmp_path / "phoneme-b-0.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="phoneme-b-0"):
        Leaderboard.from_folder(tmp_path)
