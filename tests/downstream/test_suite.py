"""A suite in one command: every task whose corpus is there, on several corpora, for all upstreams."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from builders import FIXTURES, call, refused, run, write_run, write_tones
from mt4ssl_bench import results
from mt4ssl_bench.config import recipe_names, suite_files
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.source import SOURCES, options_of
from mt4ssl_bench.corpora.sources.table import read_table
from mt4ssl_bench.downstream import evaluate as evaluation
from mt4ssl_bench.downstream.suite import cost, how_to_prepare, plan_suite
from mt4ssl_bench.downstream.task import TASKS
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.suite import read_suite

SUITE = """
about: two tasks in a second
prepare:
  calls: table calls.tsv --name calls
rows:
  - {task: phoneme, recipe: toy_phoneme.yaml, corpus: tones}
  - {task: speaker, recipe: toy_speaker.yaml, corpus: voices}
  - {task: speaker, recipe: toy_speaker.yaml, corpus: calls}
  - {task: intent, recipe: intent, corpus: fluent}
  - {task: humming, recipe: humming, corpus: tones}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and its recipes, two corpora and two runs."""
    folder = tmp_path_factory.mktemp("lab")
    for name, speakers in (("tones", 3), ("voices", 4)):
        manifest = write_tones(folder / f"{name}-audio", speakers, each=4)
        prepare(
            read_table(manifest), folder / "corpora" / name, source=manifest, name=name,
            strict=True, phones_from="manifest", synthetic=True,
        )  # fmt: skip
    for name in ("toy_phoneme.yaml", "toy_speaker.yaml"):
        (folder / name).write_text((FIXTURES / name).read_text())
    (folder / "ours.yaml").write_text(SUITE)
    for seed, name in enumerate(("first", "second")):
        write_run(folder / "runs" / name, seed=seed)
    return folder


def arguments(lab: Path, out: Path) -> list[object]:
    runs = [lab / "runs" / name for name in ("first", "second")]
    where = ("--suite", lab / "ours.yaml", "--corpora", lab / "corpora", "--out", out)
    return ["evaluate", *runs, *where, "--device", "cpu", "steps=6", "validate_every=3"]


@pytest.mark.long
def test_two_tasks_on_two_corpora_for_two_upstreams_in_one_command(
    lab: Path, tmp_path: Path
) -> None:
    done = run(*arguments(lab, tmp_path), "seeds=1,2")
    assert done.returncode == 0, done.stderr
    found = results.load_all(tmp_path)
    assert sorted((each.upstream["name"], each.task, each.corpus["name"]) for each in found) == [
        ("first", "phoneme", "tones"),
        ("first", "speaker", "voices"),
        ("second", "phoneme", "tones"),
        ("second", "speaker", "voices"),
    ]
    said = " ".join(done.stdout.split())
    assert (
        "missing: speaker on calls: no corpus; run: mt4ssl-bench prepare table calls.tsv "
        f"--name calls --out {lab}/corpora/calls" in said
    )
    assert (
        "missing: intent on fluent: no corpus; run: mt4ssl-bench prepare fluent "
        f"--from fluent_speech_commands_dataset --out {lab}/corpora/fluent" in said
    )
    assert "missing: humming on tones: no such task here" in said
    assert "task phoneme on tones: recipe toy_phoneme" in " ".join(done.stderr.split())

    board = run("leaderboard", tmp_path, "--suite", lab / "ours.yaml", "--format", "markdown")
    lines = board.stdout.splitlines()
    assert lines[0] == "### suite ours: two tasks in a second"
    heading = "| upstream | params (M) | mean place | phoneme (tones) PER % ↓ |"
    assert lines[2] == f"{heading} speaker (voices) ACC % ↑ |"
    for line in lines[4:6]:
        name = line.split(" | ")[0].removeprefix("| ")
        for task in ("phoneme", "speaker"):
            main = next(r for r in found if (r.upstream["name"], r.task) == (name, task)).main
            spread = f"{main.value:.1f} ±{main.sd:.1f} [{main.low:.1f}, {main.high:.1f}]"
            assert spread in line.replace("**", "")
    assert "* no record of speaker, recipe toy_speaker, on calls" in lines
    assert "published" not in board.stdout
    assert "points" not in board.stdout, "these corpora are not SUPERB's"
    again = run(*arguments(lab, tmp_path), "seeds=1,2")
    assert again.stderr.count("already evaluated") == 4
    table = run("leaderboard", tmp_path, "--suite", lab / "ours.yaml", "--format", "json").stdout
    assert [line["upstream"] for line in json.loads(table)["lines"]] == [
        line.split(" | ")[0].removeprefix("| ") for line in lines[4:6]
    ]
    rows = run("leaderboard", tmp_path, "--suite", lab / "ours.yaml", "--format", "csv").stdout
    assert len(rows.splitlines()) == 1 + 4


def test_a_dry_run_gives_audio_and_disk_by_task_and_computes_nothing(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments(lab, tmp_path / "out"), "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "first, toy_phoneme on tones: to do: 6 updates of 2 heads at once; 0." in said
    assert "h of audio, about 0.0 min, " in said
    assert "missing: speaker on calls: no corpus; run: mt4ssl-bench prepare table" in said
    assert not (tmp_path / "out").exists()


def test_without_any_corpus_each_row_says_what_prepares_it(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--corpora", tmp_path, "--out", tmp_path / "out")
    assert call("evaluate", "fbank", "--suite", "superb", *where, "--dry-run") == 2
    said = " ".join(capsys.readouterr().err.split())
    for source in ("librispeech", "voxceleb1", "speechcommands"):
        assert f"run: mt4ssl-bench prepare {source}" in said
    assert f"error: --corpora {tmp_path}: no row can run; phoneme on librispeech" in said


def test_a_task_that_fails_does_not_end_the_others(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lab / "wrong.yaml"
    wrong.write_text(
        "rows:\n"
        "  - {task: emotion, recipe: emotion_tiny, corpus: tones}\n"
        "  - {task: asr, recipe: toy_speaker.yaml, corpus: tones}\n"
        "  - {task: phoneme, recipe: toy_phoneme.yaml, corpus: tones}\n"
        "  - {task: speaker, recipe: toy_speaker.yaml, corpus: voices}\n"
    )
    compute = evaluation._compute

    def fail(row: Any, *arguments: Any, **named: Any) -> Any:
        if row.job.config.task == "speaker":
            raise MemoryError
        return compute(row, *arguments, **named)

    monkeypatch.setattr(evaluation, "_compute", fail)
    run_folder, where = lab / "runs" / "first", ("--corpora", lab / "corpora", "--out", tmp_path)
    assert (
        call("evaluate", run_folder, "--suite", wrong, *where, "steps=3", "validate_every=3") == 1
    )
    said = capsys.readouterr()
    assert [record.task for record in results.load_all(tmp_path)] == ["phoneme"]
    failed = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 3
    assert "emotion on tones: corpus" in failed[0]
    assert "it has no emotion" in " ".join(said.err.split())
    assert "asr on tones: recipe" in failed[1]
    assert "first, toy_speaker: MemoryError" in failed[2]


def test_an_interrupted_suite_continues_where_it_was(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, done = evaluation._compute, []

    def stop(row: Any, *arguments: Any, **named: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(row.name)
        return compute(row, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_compute", stop)
        assert call(*arguments(lab, tmp_path)) == 130
    (first,) = tmp_path.glob("*.json")
    made = first.stat().st_mtime_ns
    assert call(*arguments(lab, tmp_path)) == 0
    assert len(results.load_all(tmp_path)) == 4
    assert first.stat().st_mtime_ns == made


def test_the_table_shows_the_keys_of_the_command_and_later_those_of_the_suite(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = lab / "short.yaml"
    keys = "keys: [steps=3, validate_every=3]"
    suite.write_text(
        f"rows: [{{task: phoneme, recipe: toy_phoneme.yaml, corpus: tones, {keys}}}]\n"
    )
    where = ("--suite", suite, "--corpora", lab / "corpora", "--out", tmp_path, "--device", "cpu")
    shown = []
    for more in ([], ["steps=6"]):
        assert call("evaluate", lab / "runs" / "first", *where, *more) == 0
        shown.append(" ".join(capsys.readouterr().out.split()))
        assert "no record has the settings" not in shown[-1]
    assert "1 records of another corpus or other settings left out" in shown[1]
    assert call("leaderboard", tmp_path, "--suite", suite, "--format", "json") == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    found = {each.recipe["steps"]: each for each in results.load_all(tmp_path)}
    assert found.keys() == {3, 6}
    assert line["cells"][0]["value"] == found[3].main.value
    suite.write_text("rows: [{task: phoneme, recipe: toy_phoneme.yaml, corpus: tones}]\n")
    assert call("leaderboard", tmp_path, "--suite", suite, "--format", "markdown") == 0
    said = capsys.readouterr().out
    assert re.search(r"shown: steps=[36] instead of 300, validate_every=3 instead of 100", said)


def test_rows_are_planned_in_the_order_of_cost_with_the_keys_that_their_tasks_have(
    lab: Path,
) -> None:
    suite = read_suite(str(lab / "ours.yaml"))
    jobs = plan_suite(suite, lab / "corpora", ["crops=2", "batch=5"]).jobs
    assert [job.config.task for job in jobs] == ["speaker", "phoneme"]
    assert cost(jobs[0]) < cost(jobs[1])
    assert [job.training.batch for job in jobs] == [5, 5]
    assert jobs[0].config.identity()["crops"] == 2
    assert "crops" not in jobs[1].config.settings()
    with pytest.raises(ConfigError, match="cropz=2: no task of the suite has it; did you mean"):
        plan_suite(suite, lab / "corpora", ["cropz=2"])


def test_wrong_calls_give_one_line(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = lab / "runs" / "first"
    both = ("--suite", "superb", "--corpora", lab / "corpora")
    assert "expected --task and --corpus, or --suite and --corpora" in refused(
        capsys, "evaluate", one, *both, "--task", "asr"
    )
    assert "--suite and --corpora" in refused(capsys, "evaluate", one, "--suite", "superb")
    assert "unknown suite 'superp'; did you mean superb?" in refused(
        capsys, "evaluate", one, "--suite", "superp", "--corpora", lab / "corpora"
    )
    assert "prepare librispeech" in refused(capsys, "evaluate", one, *both)
    assert "no such folder" in refused(
        capsys, "evaluate", one, "--suite", "superb", "--corpora", tmp_path / "none"
    )
    empty = tmp_path / "empty.yaml"
    for text, message in (
        ("about: nothing\n", "no rows; expected task, recipe and corpus"),
        ("rows: [{task: asr, corpus: tones}]\n", "row 1 has no recipe"),
        ("rows: [{task: asr, corpse: tones}]\n", "unknown key 'corpse'"),
    ):
        empty.write_text(text)
        assert message in refused(capsys, "leaderboard", tmp_path, "--suite", empty)


@pytest.mark.parametrize("name", suite_files())
def test_a_suite_names_recipes_of_its_tasks(name: str) -> None:
    suite = read_suite(name)
    for row in suite.rows:
        assert row.task in TASKS
        assert row.recipe in recipe_names()
        full = row.recipe == row.task
        assert full if name == "superb" else row.recipe == f"{row.task}_tiny" or full
        command = how_to_prepare(suite, row, Path("corpora", row.corpus))
        source, *options = command.removeprefix("run: mt4ssl-bench prepare ").split()
        known = {
            f"--{option.name.replace('_', '-')}"
            for option in options_of(SOURCES.get(source).options)
        }
        shared = {"--from", "--download", "--name", "--lexicon", "--out", "--rttm"}
        assert {option for option in options if option.startswith("--")} <= known | shared
    assert name not in recipe_names(), "a suite is no recipe"
