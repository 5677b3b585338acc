"""A run's log: whole lines, without those of updates that will be made again."""

import json
from pathlib import Path

import pytest

from builders import full_disk, read_log
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.results import run_log


def test_lines_come_back_with_six_digits_and_whole_numbers(tmp_path: Path) -> None:
    for step in (1, 2):
        run_log.write(tmp_path / "run" / "log.jsonl", {"step": step, "loss": step / 3})
    assert read_log(tmp_path / "run") == [
        {"step": 1, "loss": 0.333333},
        {"step": 2, "loss": 0.666667},
    ]


def test_later_updates_and_a_line_cut_short_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for step in (1, 5, 9):
        run_log.write(log, {"step": step, "loss": 1.0})
    with log.open("a") as file:
        file.write('{"step": 3, "lo')
    run_log.trim(log, 5)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 5]


def test_a_run_without_a_log_gets_an_empty_one(tmp_path: Path) -> None:
    run_log.trim(tmp_path / "log.jsonl", 5)
    assert read_log(tmp_path) == []


def test_a_full_disk_is_a_training_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run_log.write(log, {"step": 1})
    before = log.read_bytes()
    with full_disk(len(before)):
        with pytest.raises(TrainingError, match=r"log\.jsonl: could not be written"):
            run_log.write(log, {"step": 2})
        with pytest.raises(TrainingError, match=r"log\.jsonl: could not be written"):
            run_log.replace(log, json.dumps({"step": 1, "long": "x" * 100}))
    assert log.read_bytes() == before
