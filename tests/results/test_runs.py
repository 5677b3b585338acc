"""The list of runs: what a folder shows of a run that goes on, has ended or is damaged."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from builders import call, refused, rendered
from mt4ssl_bench.results.grid import to_rich
from mt4ssl_bench.results.runs import Run, read_run, runs_below, table


def write_run(folder: Path, *steps: int, of: int = 400, extra: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"fit": {"steps": of}}))
    lines = [
        {"step": step, "epoch": 0, "online": 4 / step, "audio_seconds_per_second": 80.0,
         "waiting_share": 0.0, "lr": 1e-3, "seconds": step * 0.5, "audio_hours": 1.0}
        for step in steps
    ]  # fmt: skip
    if steps:
        lines.append({"step": steps[-1], "valid_online": 3.25})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + extra)
    return folder


def test_a_run_that_is_stopped_says_how_far_it_is_and_how_long_the_rest_takes(
    tmp_path: Path,
) -> None:
    run = read_run(write_run(tmp_path / "first", 1, 100, 200))
    assert (run.state, run.step, run.steps) == ("stopped", 200, 400)
    assert run.seconds_left == pytest.approx(100)
    assert run.losses == {"valid_online": 3.25}


def test_states(tmp_path: Path) -> None:
    done = write_run(tmp_path / "done", 1, 400)
    going = write_run(tmp_path / "going", 1, 100)
    write_run(tmp_path / "deep" / "new")
    with FileLock(going / ".lock"):
        found = {run.folder.name: run for run in runs_below(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "done": "finished", "going": "running", "new": "new",
    }  # fmt: skip
    assert found["done"].seconds_left is None
    assert read_run(going).state == "stopped"
    assert read_run(done).state == "finished"


def test_damaged_parts_count_as_missing(tmp_path: Path) -> None:
    torn = (
        '{"step": 12\n[1]\n\xff\x00\n{"step": 300, "online": "a"}\n{"step": 300, "online": null}\n'
    )
    run = read_run(write_run(tmp_path / "torn", 1, 100, extra=torn))
    assert (run.step, run.unreadable) == (100, 5)
    (tmp_path / "torn" / "config.json").write_text("{")
    run = read_run(tmp_path / "torn")
    assert (run.steps, run.seconds_left) == (None, None)
    (tmp_path / "torn" / "log.jsonl").write_text("")
    assert read_run(tmp_path / "torn").state == "new"


def test_a_log_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd" / "log.jsonl").mkdir(parents=True)
    assert call("runs", tmp_path) == 0
    assert "odd: lines at the log's end that cannot be read: 1" in capsys.readouterr().out


def test_heads_are_trained_once_their_model_is_there(tmp_path: Path) -> None:
    heads = write_run(tmp_path / "heads", 1, 100)
    rate = write_run(heads / "lr-0.01-seed-1", 1, 100)
    for folder in (heads, rate):
        (folder / "config.json").unlink()
        assert read_run(folder).state == "stopped"
    (heads / "model.pt").touch()
    assert {run.state for run in runs_below(tmp_path)} == {"finished"}


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "long", *range(1, 50_000), of=50_000)
    assert (folder / "log.jsonl").stat().st_size > 5e6
    run = read_run(folder)
    assert (run.step, run.unreadable) == (49_999, 0)


def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    name = "mt4ssl_base-with_a_name_that_says_everything-and-more"
    write_run(tmp_path / name, 1, 100, of=400_000)
    write_run(tmp_path / "b", 1, 400)
    text = rendered(to_rich([table(runs_below(tmp_path), tmp_path)]), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "mt4ssl_base…ing-and-more" in text
    assert "100/400,000" in text
    assert "55 h 32 min" in text
    assert "finished" in text


def test_a_run_is_not_a_number_it_does_not_have(tmp_path: Path) -> None:
    text = rendered(to_rich([table([Run(folder=tmp_path, state="new")], tmp_path)]), width=80)
    assert "nan" not in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "first", 1, 100)
    assert call("runs", tmp_path) == 0
    assert "100/400" in capsys.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no log.jsonl below it" in refused(capsys, "runs", empty)
    assert "no such folder" in refused(capsys, "runs", tmp_path / "gone")


def test_the_cross_entropy_stands_beside_the_entropy_of_the_labels(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "first", 1, 100)
    line = {"step": 100, "valid_offline": 3.551, "valid_offline_accuracy": 0.2,
            "valid_label_entropy": 4.461}  # fmt: skip
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    shown = rendered(table(runs_below(tmp_path), tmp_path))
    assert "offline 3.55/4.46, offline_accuracy 0.2, label_entropy 4.46" in shown
