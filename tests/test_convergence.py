"""The convergence study: checked before any training, interrupted, continued, moved, reported."""

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from builders import TOY, recipe
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import ConfigError

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "convergence.py"
STUDIES = sorted((ROOT / "benchmarks" / "studies").glob("*.yaml"))
STUDY: dict[str, Any] = {
    "recipe": TOY,
    "keys": ["optim.lr=2e-3", "targets.online.ema_steps=40"],
    "train": ["tones"],
    "arms": {"both": [], "offline": ["targets.online.weight=0"], "wild": ["optim.lr=1e30"]},
    "seeds": [0, 1],
    "checkpoints": [10, 20, 40],
    "probes": {
        "tones": {
            "task": recipe("phoneme"),
            "corpus": "tones",
            "keys": ["steps=20", "sweep=1e-2"],
        }
    },
    "outcomes": [
        {"name": "main", "probe": "tones"},
        {"name": "second", "probe": "tones", "reach": 50},
        {"name": "third", "probe": "tones", "equal": "seconds"},
    ],
}


@pytest.fixture(scope="module")
def reporting() -> ModuleType:
    """The script of the report."""
    name = "convergence_report"
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def write_study(path: Path, **changed: Any) -> Path:
    path.write_text(yaml.safe_dump({**STUDY, **changed}))
    return path


def command(study: Path, corpus: Corpus, *more: object) -> list[str]:
    places = ["--corpora", corpus.root.parent, "--work", study.parent / "work"]
    places += ["--docs", study.parent / "docs", "--device", "cpu"]
    return [sys.executable, str(SCRIPT), str(study), *map(str, (*places, *more))]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)


# ---- the file ----


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_this_repository_is_complete(reporting: ModuleType, path: Path) -> None:
    study = reporting.read_study(path)
    assert len(study.checkpoints) >= (5 if path.stem == "targets" else 4)
    assert [outcome.name for outcome in study.outcomes] == ["main", "second", "third"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outcomes": [{"name": "main", "probe": "tone"}]}, "unknown probe 'tone'; did you mean"),
        ({"checkpoints": [20, 10]}, "expected rising updates"),
        ({"confirm": [1, 2]}, "seed 1 is in both"),
        ({"arms": {}}, "has no arms"),
        ({"seed": [1]}, "unknown key 'seed'; did you mean seeds"),
    ],
)
def test_a_wrong_file_is_one_line(
    reporting: ModuleType, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reporting.read_study(write_study(tmp_path / "s.yaml", **changed))


@pytest.mark.long
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": "mt4ssl_tinny"}, "unknown recipe 'mt4ssl_tinny'"),
        ({"arms": {"both": [], "a": ["optim.lrr=1"]}}, "arm 'a': override 'optim.lrr=1': unknown"),
        ({"arms": {"both": [], "a": ["targets.online.top_k=9"]}}, "arm 'a': targets.online.top_k"),
        ({"arms": {"a": ["targets.offline.features={b}"]}}, "arm 'a': {b} is no arm above it"),
        (
            {"probes": {"tones": {"task": "phonem", "corpus": "tones"}}},
            "probe 'tones': unknown task 'phonem'",
        ),
        ({"train": ["nowhere"]}, "nowhere: no such folder"),
        ({"checkpoints": [20, 30]}, "30 is no multiple of 20"),
    ],
)
def test_every_entry_is_checked_before_any_training(
    corpus: Corpus, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    done = run(command(write_study(tmp_path / "s.yaml", **changed), corpus))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("had", "why"),
    [({"tones": "0"}, "corpus 'tones' was 0, is {now}"), ({}, "other corpora or keys")],
)
def test_a_run_with_other_settings_is_neither_replaced_nor_mixed_with_others(
    corpus: Corpus, tmp_path: Path, had: dict[str, str], why: str
) -> None:
    study, file = write_study(tmp_path / "s.yaml"), tmp_path / "docs" / "s" / "offline-7.json"
    file.parent.mkdir(parents=True)
    run_of_it = {"arm": "offline", "seed": 7, "settings": "0", "points": [], "corpora": had}
    file.write_text(json.dumps(run_of_it))
    done = run(command(study, corpus))
    assert done.returncode == 2
    assert f"offline, seed 7 ({why.format(now=corpus.info.digest)})" in done.stderr
    assert json.loads(file.read_text()) == run_of_it
    assert not (tmp_path / "work").exists()


def test_seeds_are_those_of_the_study(corpus: Corpus, tmp_path: Path) -> None:
    argv = command(write_study(tmp_path / "s.yaml"), corpus, "--check", "--seeds")
    own = [str(seed) for seed in reversed(STUDY["seeds"])]
    done = run([*argv, *own])
    assert done.returncode == 0, done.stderr
    assert f"{len(own)} seeds, all entries are right" in done.stdout
    done = run([*argv, "99"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: --seeds 99: expected some of ")


# ---- a whole study ----


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_study_is_interrupted_continued_and_moved(corpus: Corpus, tmp_path: Path) -> None:
    for place in ("whole", "broken", "moved"):
        (tmp_path / place).mkdir()
    whole, broken, moved = (
        write_study(tmp_path / place / "s.yaml") for place in ("whole", "broken", "moved")
    )
    done = run(command(whole, corpus))
    assert done.returncode == 0, done.stderr
    figures = tmp_path / "whole" / "docs" / "s"
    names = {f"{arm}-{seed}.json" for arm in STUDY["arms"] for seed in STUDY["seeds"]}
    assert {path.name for path in figures.glob("*.json")} == names
    assert all(path.stat().st_size < 8_000 for path in figures.glob("*.json"))
    assert "wild, seed 1 | 0 | - | - | pretrain wild-1: the loss is" in done.stdout
    assert "12.7 x SE for 2 seeds" in done.stdout
    assert "curves.svg" in (figures / "results.md").read_text()
    assert (figures / "curves.svg").read_text().startswith("<?xml")

    # Ctrl-C while the first run is trained, then while it is probed; the time is up at a checkpoint
    log = tmp_path / "broken" / "work" / "s" / "runs" / "both-0" / "log.jsonl"
    stop(command(broken, corpus), log.exists)
    assert not list((tmp_path / "broken" / "docs").rglob("*.json"))
    assert run(command(broken, corpus, "--minutes", "0")).returncode == 130
    records = tmp_path / "broken" / "work" / "s" / "results"
    stop(command(broken, corpus), lambda: any(records.glob("*.json")))
    assert run(command(broken, corpus)).returncode == 0
    for name in names:
        ours, theirs = (
            json.loads((tmp_path / place / "docs" / "s" / name).read_text())
            for place in ("whole", "broken")
        )
        assert scores(ours) == scores(theirs)

    # another machine: the committed figures, and nothing else
    shutil.copytree(figures, tmp_path / "moved" / "docs" / "s")
    (tmp_path / "moved" / "docs" / "s" / "offline-1.json").unlink()
    done = run(command(moved, corpus))
    assert "5 of 6 runs are finished, 5 of them not made here" in done.stdout
    assert [path.name for path in (tmp_path / "moved" / "work" / "s" / "runs").iterdir()] == [
        "offline-1"
    ]


def stop(argv: list[str], when: Any) -> None:
    """Press Ctrl-C once something has happened."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    child = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not when():
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    said = child.communicate()[0]
    assert child.returncode == 130, said
    assert "the same command continues" in said
    assert "Traceback" not in said


def scores(figures: dict[str, Any]) -> Any:
    """All of the figures but the clock and the date."""
    points = [(p["update"], p["valid"], p["probes"]) for p in figures["points"]]
    kept = {key: figures[key] for key in ("arm", "seed", "settings", "outcomes", "utterances")}
    return {**kept, "points": points, "ended": figures["ended"].partition(" at ")[0]}


# ---- the report ----


def figures(arm: str, seed: int, scores: list[float], **more: Any) -> dict[str, Any]:
    points = [
        {"update": step, "seconds": 2.0 * step, "valid": {"valid_offline": 3.0},
         "probes": {"tones": {"value": score, "valid": score + 1, "low": 0, "high": 100}}}
        for step, score in zip(STUDY["checkpoints"], scores, strict=False)
    ]  # fmt: skip
    run = {"arm": arm, "seed": seed, "ended": "", "outcomes": "", "machine": "m", "revision": "r"}
    return {**run, "utterances": {}, "points": points, **more}


def test_outcomes_are_interpolated_between_checkpoints(
    reporting: ModuleType, tmp_path: Path
) -> None:
    study = reporting.read_study(write_study(tmp_path / "s.yaml"))
    runs = [
        figures("both", 0, [80, 60, 40]),
        figures("both", 1, [49, 48, 30]),
        figures("offline", 0, [80, 70, 60]),
        figures("offline", 1, [80, 50], ended="the loss is nan"),
    ]
    group = reporting.Group(study, runs, "test")
    main, second, third = study.outcomes
    assert group.outcome(main, "both") == {0: 40, 1: 30}
    assert group.outcome(main, "offline") == {0: 60}  # a run that ended early has no end
    assert group.outcome(second, "both") == {0: 30, 1: 10}
    assert group.outcome(second, "offline") == {0: math.inf, 1: 20}
    assert group.outcome(third, "both") == {0: 40, 1: 30}
    runs[2]["points"][-1]["seconds"] = 60.0  # the quickest run: the others count at 60 s
    assert group.outcome(third, "both") == {0: 50, 1: 39}
    assert reporting.Group(study, runs, "valid").outcome(main, "both") == {0: 41, 1: 31}


def test_the_report_pairs_seeds_and_utterances(reporting: ModuleType, tmp_path: Path) -> None:
    study = reporting.read_study(write_study(tmp_path / "s.yaml", seeds=[9], confirm=[0, 1, 2]))
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(3):
        wrong = rng.integers(2, 5, 60)
        for arm, more in (("both", 0), ("offline", 2)):
            counts = {"errors": (wrong + more).tolist(), "tokens": [10] * 60}
            end = 10 * (wrong + more).mean()
            runs.append(figures(arm, seed, [80, 60, end], utterances={"tones": counts}))
    text = reporting.report(study, runs)
    assert "Confirmation: seeds 0, 1, 2" in text
    assert "4.3 x SE for 3 seeds" in text
    line = next(each for each in text.splitlines() if "both - offline" in each)
    assert "| 3 | -20.0 [-20.0, -20.0] | " in line
    assert "a difference over seeds" in line
    assert reporting.report(study, []) == "No run is finished.\n"


def test_a_damaged_file_of_figures_is_named(reporting: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "both-0.json").write_text('{"seed": 1')
    with pytest.raises(ConfigError, match=r"both-0\.json: damaged"):
        reporting.read_figures(tmp_path)


def test_the_page_gets_the_tables_between_its_markers(
    reporting: ModuleType, tmp_path: Path
) -> None:
    path = write_study(tmp_path / "s.yaml")
    folder, page = tmp_path / "docs" / "studies" / "s", tmp_path / "docs" / "convergence.md"
    folder.mkdir(parents=True)
    page.write_text("# Page\n\n<!-- study: s -->\n\nNo run is finished.\n\n<!-- end -->\n\nEnd\n")
    before = page.read_text()
    reporting.write_report(path, folder.parent)
    assert page.read_text() == before
    (folder / "both-0.json").write_text(json.dumps(figures("both", 0, [80, 60, 40])))
    for _ in range(2):  # twice gives the same page
        reporting.write_report(path, folder.parent)
        text = page.read_text()
        assert text.startswith("# Page\n")
        assert text.endswith("<!-- end -->\n\nEnd\n")
        assert text.count("| both | 1 | 41.0 (one seed) | 3.00 (one seed) | - | - |") == 1
        assert "(studies/s/results.md)" in text
    assert "both, seed 0" in (folder / "results.md").read_text()
