"""The pretraining job: it learns, it resumes exactly after any death, and it stops when it must."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import load
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import BenchError, CheckpointError, TrainingError
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.pretrain import open_pretraining

TOY = str(Path(__file__).parent / "data" / "toy.yaml")


def config(corpus: Corpus, *overrides: str) -> PretrainConfig:
    return load(PretrainConfig, TOY, [f"data.corpus={corpus.root}", *overrides])


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_both_losses_fall_and_everything_is_logged(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = open_pretraining(config(corpus, "fit.steps=60", "fit.log_every=20", "optim.lr=3e-3")).run(run)
    assert report.finished
    first, *_, last = (line for line in log(run) if "lr" in line)
    assert last["offline"] < first["offline"]
    assert last["online"] < first["online"]
    assert first["offline"] == pytest.approx(2.08, abs=0.6)  # about ln 8: nothing is known yet
    expected = {"target_var", "pred_var", "ema_decay", "lr", "audio_seconds_per_second", "offline_accuracy"}
    assert expected <= last.keys()
    assert last["ema_decay"] == pytest.approx(0.9999 - 0.0009 * (1 - 60 / 5000))
    assert any("valid_offline" in line and "valid_online" in line for line in log(run))
    stored = checkpoint.load(run / "checkpoint.pt")
    assert stored["step"] == 60
    assert json.loads((run / "config.json").read_text()) == stored["config"]


def test_the_same_seed_gives_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    prints = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        open_pretraining(config(corpus, f"fit.seed={seed}")).run(tmp_path / name)
        prints.append(checkpoint.fingerprint(checkpoint.load(tmp_path / name / "checkpoint.pt")["model"]))
    assert prints[0] == prints[1] != prints[2]


def test_a_killed_run_ends_with_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    steps = ["fit.steps=30", "fit.save_every=3", "masking.clones=1"]
    open_pretraining(config(corpus, *steps)).run(tmp_path / "whole")
    command = [sys.executable, "-m", "mt4ssl_bench", "pretrain", TOY, f"data.corpus={corpus.root}", *steps]
    command += ["--out", str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    kills = 0
    for _ in range(30):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wanted = 6 * (kills + 1)  # die a little after this update
        while child.poll() is None and kills < 3:
            lines = (tmp_path / "killed" / "log.jsonl").exists() and log_steps(tmp_path / "killed")
            if lines and lines[-1] >= wanted:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        child.wait()
        if child.returncode == 0:
            break
    assert kills == 3
    ends = [checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed")]
    assert [end["step"] for end in ends] == [30, 30]
    for name, tensor in ends[0]["model"].items():
        assert torch.equal(tensor, ends[1]["model"][name]), name
    assert [line["step"] for line in log(tmp_path / "killed")] == [line["step"] for line in log(tmp_path / "whole")]


def log_steps(run: Path) -> list[int]:
    steps = []
    for line in (run / "log.jsonl").read_text().splitlines():
        try:
            steps.append(int(json.loads(line)["step"]))
        except ValueError:  # caught while it was being written
            break
    return steps


def test_ctrl_c_saves_and_the_same_command_continues(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mt4ssl_bench", "pretrain", TOY, f"data.corpus={corpus.root}"]
    command += ["fit.steps=100000", "fit.save_every=100000", "--out", str(run)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (run / "log.jsonl").exists():
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    said = child.communicate()[1]
    assert child.returncode == 130
    assert "same command continues" in said
    assert "Traceback" not in said
    assert checkpoint.load(run / "checkpoint.pt")["step"] >= 1


def test_a_finished_run_returns_at_once_and_other_settings_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    open_pretraining(config(corpus)).run(run)
    assert open_pretraining(config(corpus)).run(run).finished
    with pytest.raises(CheckpointError, match=r"other settings \(optim.lr: 0.001 there, 0.002 here\)"):
        open_pretraining(config(corpus, "optim.lr=2e-3")).run(run)


def test_a_collapsed_run_stops_with_advice(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"collapse at update 2: target_var .*ema_start"):
        open_pretraining(config(corpus, "collapse_step=2", "min_target_var=100")).run(tmp_path / "run")


def test_one_extractor_alone_trains(corpus: Corpus, tmp_path: Path) -> None:
    for name in ("offline", "online"):
        run = tmp_path / name
        open_pretraining(config(corpus, f"targets.{name}.weight=0")).run(run)
        assert name not in log(run)[-2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.heads=3", "heads=3: encoder.dim=32"),
        ("targets.online.top_k=9", "top_k=9: encoder.layers is 2"),
        ("masking.clones=0", "at least 1"),
        ("data.train=trian", "did you mean train"),
        ("targets.offline.labels=/nowhere", "mt4ssl-bench kmeans"),
        ("targets={offline: {weight: 0}, online: {weight: 0}}", "both weights are 0"),
    ],
)
def test_keys_that_do_not_fit_are_refused_before_any_work(
    corpus: Corpus, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        open_pretraining(config(corpus, override)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_base_recipe_takes_three_updates_at_the_papers_size(corpus: Corpus, tmp_path: Path) -> None:
    shapes = ["data.batch_seconds=4", "data.workers=0", "data.min_seconds=0.5", "targets.offline.clusters=20"]
    recipe = load(
        PretrainConfig, "mt4ssl_base", [f"data.corpus={corpus.root}", *shapes, "fit.steps=3", "fit.log_every=1"]
    )
    open_pretraining(recipe).run(tmp_path / "run")
    lines = [line for line in log(tmp_path / "run") if "lr" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["target_var"] > 0.1 for line in lines)
