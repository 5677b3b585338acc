"""Several processes evaluate as one: the same bits, each unit of work once, and no work is lost."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from builders import RATE, TOY, Prefork, environment, run, speak, torchrun
from mt4ssl_bench.corpora.prepare import prepare
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Turn

MODEL = f"random:{TOY}"
SLOTS = {"LOW": "O", "MID": "music_item", "HIGH": "artist"}
SUITE = """
about: a row of every kind of head, with and without folds, crops and single layers
rows:
  - {task: asr, recipe: asr_tiny, corpus: all, keys: ["sweep=1e-2,3e-3,1e-3", "seeds=0,1"]}
  - {task: phoneme, recipe: phoneme_tiny, corpus: all, keys: ["sweep=1e-2,1e-3", "layers=all"]}
  - {task: speaker, recipe: speaker_tiny, corpus: all, keys: ["sweep=1e-1,1e-2"]}
  - {task: emotion, recipe: emotion_tiny, corpus: all, keys: ["sweep=1e-1,1e-2"]}
  - {task: intent, recipe: intent_tiny, corpus: all, keys: ["sweep=1e-1"]}
  - {task: slots, recipe: slots_tiny, corpus: all, keys: ["sweep=1e-2,1e-3"]}
  - {task: verification, recipe: verification_tiny, corpus: all, keys: [min_seconds=0.3]}
  - {task: diarization, recipe: diarization_tiny, corpus: all}
  - {task: separation, recipe: separation_tiny, corpus: all}
  - {task: abx_word, recipe: abx_word, corpus: all, keys: ["words=turns:words"]}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, and one corpus that every row of it can read."""
    root, rng, rows = tmp_path_factory.mktemp("lab"), np.random.default_rng(0), []
    for number, split in itertools.product(range(16), ("train", "train", "valid", "test")):
        name = f"u{len(rows):03}"
        words = [("LOW", "MID", "HIGH")[place] for place in rng.integers(3, size=3)]
        speaker = len(rows) // 4 % 4
        samples = speak(words, speaker, rng)
        paths = {kind: root / "audio" / f"{name}-{kind}.wav" for kind in ("mix", "s1", "s2")}
        paths["mix"].parent.mkdir(exist_ok=True)
        for path, part in zip(paths.values(), (1.0, 0.7, 0.3), strict=True):
            soundfile.write(path, part * np.roll(samples, round(100 * part)), RATE)
        seconds = len(samples) / RATE
        turns = (Turn(0.0, 0.6 * seconds, "a"), Turn(0.4 * seconds, seconds, "b"))
        third = seconds / 3
        said = tuple(Turn(n * third, (n + 1) * third, word) for n, word in enumerate(words))
        labels = {
            "fold": str(number % 3), "emotion": ("ang", "sad")[number // 2 % 2],
            "action": words[0], "object": words[1], "location": words[2],
            "slots": " ".join(SLOTS[word] for word in words),
        }  # fmt: skip
        rows.append(
            Row(
                id=name, path=paths["mix"], split=split, speaker=f"s{speaker}", labels=labels,
                text=" ".join(words), phones=" ".join(word[0] for word in words),
                turns={"speakers": turns, "words": said}, others={"s1": paths["s1"], "s2": paths["s2"]},
            )
        )  # fmt: skip
    test = [row for row in rows if row.split == "test"]
    trials = [
        {"label": str(int(a.speaker == b.speaker)), "enrol_id": a.id, "test_id": b.id}
        for a, b in itertools.combinations(test, 2)
    ]
    prepare(
        rows, root / "corpora" / "all", source=root, name="all", synthetic=True,
        phones_from="manifest", lists={"trials": trials},
    )  # fmt: skip
    (root / "suite.yaml").write_text(SUITE)
    return root


def suite(lab: Path, out: Path) -> list[str]:
    where = ["--suite", str(lab / "suite.yaml"), "--corpora", str(lab / "corpora")]
    keys = ["steps=6", "validate_every=3", "batch=4"]
    return ["evaluate", MODEL, "fbank", *where, "--out", str(out), "--device", "cpu", *keys]


def row(lab: Path, out: Path, *keys: str) -> list[str]:
    """One row of LSTM heads at four rates."""
    keys = ("sweep=1e-2,3e-3,1e-3,1e-4", "validate_every=10", "batch=4", *keys)
    where = ["--corpus", str(lab / "corpora" / "all"), "--out", str(out), "--device", "cpu"]
    return ["evaluate", MODEL, "--task", "asr_tiny", *where, *keys]


def outputs(out: Path) -> dict[str, Any]:
    """Return records and answers by file name, without times."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("*.json*")):
        found[path.name] = path.read_text()
        if path.suffix == ".json":
            found[path.name] = json.loads(found[path.name])
            for key in ("created", "wall_seconds", "git"):
                del found[path.name][key]
    return found


def left_behind(out: Path) -> list[str]:
    """Return what only an interrupted evaluation leaves."""
    names = ("*.shards", "*.partial", "checkpoint.pt", "heads")
    return [str(path) for name in names for path in out.rglob(name)]


def finish(prefork: Prefork, started: list[tuple[int, Path]]) -> str:
    """Wait for the processes of a world; return what the main one said, the others nothing."""
    codes = [prefork.wait(pid) for pid, _ in started]
    said = [out.read_text() for _, out in started]
    assert codes == [0] * len(started), said
    assert said[1:] == [""] * (len(started) - 1)
    return said[0]


@pytest.fixture(scope="module")
def alone(lab: Path, prefork: Prefork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one row in one process."""
    out = tmp_path_factory.mktemp("alone")
    prefork.run(*row(lab, out, "steps=30"))
    return out


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_any_number_of_processes_gives_the_records_of_one(lab: Path, tmp_path: Path) -> None:
    made = {}
    for count in (1, 2, 4):
        command = [*torchrun(count), "-m", "mt4ssl_bench", *suite(lab, tmp_path / str(count))]
        done = subprocess.run(
            command, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "failed" not in done.stderr
        made[count] = outputs(tmp_path / str(count))
        assert not left_behind(tmp_path / str(count))
    assert len([name for name in made[1] if name.endswith(".json")]) == 2 * SUITE.count("task:")
    assert made[1] == made[2] == made[4]


def test_two_processes_share_one_row(
    lab: Path, prefork: Prefork, alone: Path, tmp_path: Path
) -> None:
    said = finish(prefork, prefork.world(2, *row(lab, tmp_path, "steps=30")))
    assert outputs(tmp_path) == outputs(alone)
    assert not left_behind(tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in folder.glob("heads-*")} == {"heads-0-1", "heads-2-3"}
    assert len(re.findall(r"asr_tiny: WER .* at lr ", said)) == 1, said
    assert "another process" not in said


def test_more_processes_than_heads(lab: Path, prefork: Prefork, tmp_path: Path) -> None:
    keys = ("steps=10", "sweep=1e-2")
    prefork.run(*row(lab, tmp_path / "one", *keys))
    finish(prefork, prefork.world(3, *row(lab, tmp_path / "three", *keys)))
    assert outputs(tmp_path / "three") == outputs(tmp_path / "one")


@pytest.mark.long
def test_a_process_that_is_killed_is_replaced_and_nothing_is_lost(
    lab: Path, prefork: Prefork, tmp_path: Path
) -> None:
    keys = ("steps=200",)
    prefork.run(*row(lab, tmp_path / "alone", *keys))
    (first, _), (second, said) = prefork.world(2, *row(lab, tmp_path / "two", *keys))
    heads = tmp_path / "two" / "runs"
    while not list(heads.rglob("heads-2-3/log.jsonl")):  # the other one's slice
        time.sleep(0.01)
    os.kill(second, signal.SIGKILL)
    assert prefork.wait(second) == -signal.SIGKILL
    assert prefork.wait(first) == 2, "it makes the record, and then lacks the other process"
    assert said.read_text() == ""
    assert outputs(tmp_path / "two") == outputs(tmp_path / "alone")
    again = finish(prefork, prefork.world(2, *row(lab, tmp_path / "two", *keys)))
    assert "already evaluated" in again


def test_a_second_run_with_other_processes_makes_only_what_is_missing(
    lab: Path, prefork: Prefork, alone: Path, tmp_path: Path
) -> None:
    started = prefork.world(4, *row(lab, tmp_path, "steps=30"))
    while not list(tmp_path.rglob("heads/*.pt")):
        time.sleep(0.005)
    for pid, _ in started:
        os.kill(pid, signal.SIGKILL)
    for pid, _ in started:
        prefork.wait(pid)
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("heads/*.pt")}
    if not list(tmp_path.glob("*.json")):  # else the last moment was missed
        assert there
    finish(prefork, prefork.world(2, *row(lab, tmp_path, "steps=30")))
    assert outputs(tmp_path) == outputs(alone)
    assert not left_behind(tmp_path)


def test_processes_with_other_corpora_are_refused_in_one_line(
    lab: Path, corpus: Corpus, prefork: Prefork, tmp_path: Path
) -> None:
    argv = row(lab, tmp_path, "steps=30")
    other = [str(corpus.root) if "corpora" in word else word for word in argv]
    said = refused_by(prefork, [argv, other])
    assert "process 1 of 2 differs from process 0: rows: " in said
    assert not list(tmp_path.iterdir())


def test_processes_that_do_not_share_the_results_folder_are_told_so(
    lab: Path, prefork: Prefork, tmp_path: Path
) -> None:
    worlds = [row(lab, tmp_path / name, "steps=30") for name in ("here", "there")]
    said = refused_by(prefork, worlds)
    assert re.search(r"process 1 of 2 does not see the files of process 0 there; all proc", said)


def refused_by(prefork: Prefork, commands: list[list[str]]) -> str:
    """Run a world whose processes were given different things; return its one line."""
    started = prefork.worlds(commands)
    assert [prefork.wait(pid) for pid, _ in started] == [2] * len(commands)
    lines = Counter(line for _, out in started for line in out.read_text().splitlines())
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert lines[line] == 1
    assert not any("Traceback" in other for other in lines)
    return line


@pytest.mark.long
def test_workers_are_started_and_their_exit_code_is_the_commands(
    lab: Path, alone: Path, tmp_path: Path
) -> None:
    done = run(*row(lab, tmp_path, "steps=30", "--workers", "2"), OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path) == outputs(alone)
    assert done.stdout.count("asr WER") == 2, "a sweep and a leaderboard, of one process"
    failed = run(*row(lab, tmp_path, "steps=30", "--workers", "2", "sweep=1e30", "clip_norm=0"))
    assert failed.returncode == 1
    assert failed.stderr.count("training failed at every learning rate") == 2  # log and summary


def test_a_killed_worker_is_named_in_one_line(lab: Path, tmp_path: Path) -> None:
    command = ["-m", "mt4ssl_bench", *row(lab, tmp_path, "steps=100000", "--workers", "2")]
    process = subprocess.Popen(
        [sys.executable, *command], env=environment(), stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.rglob("log.jsonl")):
        time.sleep(0.05)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = max(int(pid) for pid in listed if b"--workers" in cmdline(pid))
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(rf"process \d of 2 \(pid {victim}\) was killed by SIGKILL, and the oth", line)
    assert "Traceback" not in said


def cmdline(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_wrong_number_of_workers_is_refused(lab: Path, tmp_path: Path, count: str) -> None:
    done = run(*row(lab, tmp_path, "--workers", count))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "--workers" in line
