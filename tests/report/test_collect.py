"""What a report finds: records, runs and costs by their content, and what it leaves out."""

import json
import math
from pathlib import Path

import pytest

from builders import call, record, refused
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.report.collect import collect
from mt4ssl_bench.report.page import render
from mt4ssl_bench.report.run_curves import MOST, place, read_curves
from mt4ssl_bench.results import record_files


def log_line(step: int, **values: float) -> str:
    line = {"step": step, "epoch": 0, "online": 4 / step, "lr": 1e-3, "seconds": step * 0.5,
            "audio_seconds_per_second": 80.0, "audio_hours": step / 100, **values}  # fmt: skip
    return json.dumps(line) + "\n"


def write_run(folder: Path, log: str | None) -> Path:
    folder.mkdir(parents=True)
    config = {"encoder": {}, "targets": {}, "fit": {"steps": 400}}
    (folder / "config.json").write_text(json.dumps(config))
    if log is not None:
        (folder / "log.jsonl").write_text(log)
    return folder


def test_records_and_runs_are_told_apart_in_any_order(tmp_path: Path) -> None:
    record_files.save(record("m"), [], tmp_path / "all" / "results")
    write_run(tmp_path / "all" / "runs" / "first", log_line(1))
    head = tmp_path / "all" / "results" / "runs" / "phoneme-m-0123456789abcdef"
    head.mkdir(parents=True)
    line = {"step": 1, "epoch": 0, "audio_seconds_per_second": 0.0, "lr": 0.01}
    (head / "log.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "all" / "corpus.json").write_text('{"name": "demo"}')
    for paths in ([tmp_path], [tmp_path / "all" / "runs", tmp_path / "all" / "results", tmp_path]):
        content = collect(paths)
        assert [each.upstream["name"] for each in content.records] == ["m"]
        assert [each.name for each in content.runs] == ["first"]
        assert content.problems == []


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    good = record_files.save(record("good"), [], tmp_path)
    torn = record_files.save(record("torn"), [], tmp_path)
    torn.write_text(torn.read_text()[:300])
    later = record_files.save(record("later"), [], tmp_path)
    later.write_text(later.read_text().replace('"schema": 1', '"schema": 7'))
    alone = record_files.save(record("alone"), [], tmp_path)
    record_files.hypotheses_path(alone).unlink()
    content = collect([tmp_path])
    page = render(content)
    assert [each.upstream["name"] for each in content.records] == ["alone", "good"]
    assert len(content.problems) == 3
    for path, reason in ((torn, "not JSON"), (later, "schema 7, expected 1"), (alone, "no such")):
        (line,) = [line for line in content.problems if path.stem in line]
        assert reason in line
        assert "\n" not in line
    assert "Left out: 3" in page
    assert good.stem not in "".join(content.problems)


def test_a_cost_without_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(
        '{"fingerprint": "x", "checks": [], "cost": {"macs_per_second": "many"}}'
    )
    content = collect([tmp_path])
    assert content.costs == {}
    assert len(content.problems) == 1


def test_a_folder_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BenchError, match="no such file or folder"):
        collect([tmp_path / "nowhere"])
    assert "nowhere" in refused(capsys, "report", tmp_path / "nowhere")
    assert "a folder" in refused(capsys, "report", tmp_path, "--out", tmp_path)


def test_a_run_without_a_log_and_one_that_diverged_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "new", None)
    nan = log_line(2).replace("2.0", "NaN", 1)
    write_run(tmp_path / "lost", log_line(1) + nan + '{"step": 3, "valid_online": NaN}\n{"st')
    content = collect([tmp_path])
    page = render(content)
    lost, new = content.runs
    assert (lost.lines, lost.not_finite, lost.unreadable) == (4, 2, 1)
    assert math.isnan(lost.train[1]["online"])
    assert (new.lines, new.train) == (0, [])
    assert "new: no lines in its log" in page
    assert "lost: 1 lines of the log cannot be read" in page


def test_a_log_of_a_million_lines_is_thinned_and_keeps_both_ends(tmp_path: Path) -> None:
    run = write_run(tmp_path / "long", None)
    with (run / "log.jsonl").open("w") as log:
        for step in range(1, 1_000_001):
            log.write(f'{{"step": {step}, "epoch": 0, "audio_seconds_per_second": 80.0}}\n')
            if step % 5000 == 0:
                log.write(json.dumps({"step": step, "valid_online": 1.25}) + "\n")
    curves = read_curves(run)
    assert curves.lines == 1_000_200
    assert len(curves.train) == MOST
    assert [curves.train[0]["step"], curves.train[-1]["step"]] == [1, 1_000_000]
    assert [each["step"] for each in curves.valid] == list(range(5000, 1_000_001, 5000))


def test_a_validation_stands_beside_the_training_that_it_follows(tmp_path: Path) -> None:
    valid = '{"step": 30, "valid_online": 3.5}\n{"step": 40, "valid_online": 3.25}\n'
    curves = read_curves(write_run(tmp_path / "r", log_line(20) + log_line(40) + valid))
    places = [place(line, "seconds", curves.train) for line in curves.valid]
    assert places == [15.0, 20.0]
    assert math.isnan(place(curves.valid[0], "gone", curves.train))


def test_the_numbers_of_curves_are_those_of_the_log(tmp_path: Path) -> None:
    log = "".join(log_line(step) for step in range(1, 51)) + '{"step": 50, "valid_online": 3.5}\n'
    write_run(tmp_path / "first", log)
    page = render(collect([tmp_path]))
    for line in log.splitlines():
        for value in json.loads(line).values():
            assert f"<td>{value:.6g}</td>" in page or f"<th>{value:.6g}</th>" in page
    for title in ("over updates", "over hours of audio", "over seconds of training"):
        assert title in page


def test_the_command_writes_the_file_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = record_files.save(record("m"), [], tmp_path / "results")
    out = tmp_path / "new" / "report.html"
    assert call("report", tmp_path / "results", "--out", out) == 0
    said = capsys.readouterr().out
    assert f"{out}: 1 records, 0 pretraining runs" in said
    assert "left out" not in said
    file.with_name(f"other-{'0' * 16}.json").write_text("{")
    assert call("report", tmp_path / "results", "--out", out) == 0
    assert "left out: 1 files, named at the top of the page" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
