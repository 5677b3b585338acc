"""Several processes train as one: the same updates, one log, one voice, and no process waits for a
dead one.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import nn

from builders import TOY, Prefork, largest_difference, read_log, torchrun
from mt4ssl_bench import checkpoint
from mt4ssl_bench.corpora.prepare_source import Request, prepare_path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.training.distributed import ALONE, no_sync
from mt4ssl_bench.training.launch import joined

LAYOUTS = [(1, 4), (2, 2), (4, 1)]  # processes, batches per update of each


def command(corpus: Corpus, out: Path, accumulate: int, *keys: str) -> list[str]:
    """Ten updates of four batches, with dropout and dropped layers.

    Some begin in one epoch and end in the next.
    """
    fixed = [
        *(f"data.corpus={corpus.root}", f"fit.accumulate={accumulate}", "data.batch_seconds=3"),
        *("fit.steps=10", "fit.log_every=5", "fit.validate_every=5"),
        *("encoder.layer_drop=0.2", "optim.phases=[0,1,0]"),
    ]
    return ["pretrain", TOY, *fixed, *keys, "--device", "cpu", "--out", str(out)]


def finish(prefork: Prefork, size: int, argv: list[str]) -> str:
    """Run a world to its end; returns all that it said."""
    started = prefork.world(size, *argv)
    codes = [prefork.wait(pid) for pid, _ in started]
    said = [re.sub(r"^\[rank.*\n", "", out.read_text()) for _, out in started]  # DDP's own warnings
    assert codes == [0] * size, said
    assert said[1:] == [""] * (size - 1)
    return said[0]


def distance(one: Path, other: Path) -> float:
    """Return the largest difference of any weight: student, teacher and heads."""
    ours, theirs = (checkpoint.load(run / "checkpoint.pt") for run in (one, other))
    assert ours["step"] == theirs["step"] == 10
    assert (ours["epoch"], ours["position"]) == (theirs["epoch"], theirs["position"])
    return largest_difference(ours["model"], theirs["model"])


@pytest.fixture(scope="module")
def runs(
    prefork: Prefork, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The same run by one, two and four processes."""
    root = tmp_path_factory.mktemp("runs")
    for size, accumulate in LAYOUTS:
        finish(prefork, size, command(corpus, root / str(size), accumulate))
    return {size: root / str(size) for size, _ in LAYOUTS}


def test_one_process_two_and_four_make_the_same_updates(runs: dict[int, Path]) -> None:
    assert checkpoint.load(runs[1] / "checkpoint.pt")["epoch"] >= 2
    assert distance(runs[1], runs[2]) < 1e-5
    assert distance(runs[1], runs[4]) < 1e-5
    start = min(float(row["offline"]) for row in read_log(runs[1])[:1])
    assert read_log(runs[1])[-2]["offline"] < start  # and they do move


def test_the_log_holds_means_over_all_processes(runs: dict[int, Path]) -> None:
    alone = read_log(runs[1], times=False)
    assert [row["step"] for row in alone] == [1, 5, 5, 10, 10]
    assert {"offline", "online_target_var", "valid_offline"} <= {
        key for row in alone for key in row
    }
    for size in (2, 4):
        shared = read_log(runs[size], times=False)
        assert [row.keys() for row in shared] == [row.keys() for row in alone]
        for ours, theirs in zip(alone, shared, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


def test_torchrun_and_plain_python_run_the_same_command(
    corpus: Corpus, runs: dict[int, Path], tmp_path: Path
) -> None:
    argv = [*torchrun(2), "-m", "mt4ssl_bench", *command(corpus, tmp_path, 2)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120)
    assert distance(runs[1], tmp_path) < 1e-5
    assert done.stdout.count("10 updates") == done.stderr.count("M parameters") == 1


def test_another_number_of_processes_continues_a_stopped_run(
    prefork: Prefork, corpus: Corpus, runs: dict[int, Path], tmp_path: Path
) -> None:
    started = prefork.world(2, *command(corpus, tmp_path, 2, "fit.save_every=1"))
    while not (tmp_path / "checkpoint.pt").exists():
        time.sleep(0.01)
    os.kill(started[1][0], signal.SIGTERM)  # one process is asked, all stop after the same update
    assert [prefork.wait(pid) for pid, _ in started] == [130, 130]
    assert started[0][1].read_text().count("interrupted") == 1
    stopped = checkpoint.load(tmp_path / "checkpoint.pt")["step"]
    assert 1 <= stopped < 10
    said = finish(prefork, 1, command(corpus, tmp_path, 4, "fit.save_every=1"))
    assert f"processes x fit.accumulate: 2 x 2 before update {stopped}, 1 x 4 from here on" in said
    assert distance(runs[1], tmp_path) < 1e-5
    assert [row["step"] for row in read_log(tmp_path)] == [1, 5, 5, 10, 10]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (
            "optim.lr=2e-3",
            "process 1 of 2 differs from process 0: optim.lr: 0.002 there, 0.001 here",
        ),
        (
            "fit.accumulate=3",
            "process 1 of 2 differs from process 0: fit.accumulate: 3 there, 2 here",
        ),
    ],
)
def test_processes_with_other_recipes_are_refused_before_any_update(
    prefork: Prefork, corpus: Corpus, tmp_path: Path, key: str, line: str
) -> None:
    fixed = command(corpus, tmp_path / "run", 2, "targets.offline.weight=0", "optim.lr=1e-3")
    started = prefork.worlds([fixed, [*fixed, key]])
    assert [prefork.wait(pid) for pid, _ in started] == [2, 2]
    said = "".join(out.read_text() for _, out in started)
    assert said.count("error:") == said.count(line) == 1, said
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("encoder.heads=3", "heads=3: encoder.dim=32"),  # every process finds it
        (
            "targets.offline.clusters=60000",
            "only 1291 frames of the training split",
        ),  # the main one alone
        (
            "optim.lr=1e30",
            r"(loss|gradient) is .* at update \d, utterances s\d-\d",
        ),  # in the middle of the run
    ],
)
def test_an_error_is_said_once_and_no_process_is_left(
    prefork: Prefork, corpus: Corpus, tmp_path: Path, key: str, message: str
) -> None:
    started = prefork.world(2, *command(corpus, tmp_path / "run", 2, key))
    assert [prefork.wait(pid) for pid, _ in started] == [2, 2]
    said = "".join(out.read_text() for _, out in started)
    assert said.count("error:") == 1
    assert re.search(message, said)
    assert "Traceback" not in said


def test_what_one_process_finds_not_finite_stops_all_and_names_its_utterances(
    prefork: Prefork, manifest: Path, tmp_path: Path
) -> None:
    shutil.copytree(manifest.parent, tmp_path / "loud")
    manifest, audio = tmp_path / "loud" / "manifest.tsv", tmp_path / "loud" / "audio"
    count = soundfile.info(audio / "s1-3.flac").frames
    loud = np.full(count, 3e38, dtype=np.float32)  # finite, and its mean is not
    soundfile.write(audio / "s1-3.wav", loud, 16_000, subtype="FLOAT")
    manifest.write_text(manifest.read_text().replace("s1-3.flac", "s1-3.wav"))
    corpus = prepare_path("table", manifest, tmp_path / "corpus", Request(name="loud"))
    keys = ["targets.offline.weight=0", "data.batch_seconds=0.5"]  # one utterance per batch
    started = prefork.world(2, *command(corpus, tmp_path / "run", 1, *keys))
    assert [prefork.wait(pid) for pid, _ in started] == [2, 2]
    said = [line for _, out in started for line in out.read_text().splitlines() if "error:" in line]
    assert len(said) == 1
    assert re.search(
        r"the loss is nan at update \d, utterances s1-3; the last checkpoint stays", said[0]
    )


def test_when_one_process_is_killed_the_other_ends_and_says_so(
    prefork: Prefork, corpus: Corpus, tmp_path: Path
) -> None:
    argv = command(corpus, tmp_path, 2, "fit.save_every=1", "fit.steps=100000")
    started = prefork.world(2, *argv)
    while not (tmp_path / "checkpoint.pt").exists():
        time.sleep(0.01)
    os.kill(started[1][0], signal.SIGKILL)
    assert [prefork.wait(pid) for pid, _ in started] == [2, -signal.SIGKILL]
    said = started[0][1].read_text()
    assert "error: process 0 of 2 lost the others" in said
    assert "Traceback" not in said
    assert checkpoint.load(tmp_path / "checkpoint.pt")["step"] >= 1


def test_plain_python_is_a_world_of_one_without_a_process_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as world:
        assert world == ALONE
        assert world.main
        assert world.sum(1, 2.5) == [1.0, 2.5]
        assert [world.any(asked) for asked in (True, False)] == [True, False]
        assert world.gather("a") == ["a"]
        with world.main_first(), no_sync(world.wrap(model := nn.Linear(1, 1), unused=False)):
            assert world.wrap(model, unused=True) is model
