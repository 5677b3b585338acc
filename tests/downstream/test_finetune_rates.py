"""Fine-tuning in step: several processes make the updates, validations and records of one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import TOY, environment, largest_difference, recipe, torchrun
from mt4ssl_bench.data.corpus import Corpus

# what GPUs do, on CPUs
IN_STEP = """
from mt4ssl_bench.cli import main
from mt4ssl_bench.downstream import rows
rows.in_step = lambda job, world: job.config.mode == "finetune" and world.size > 1
"""
ALONE_FAILS = """
from mt4ssl_bench.downstream.training.finetune import Finetuning
loss = Finetuning.loss
def failing(self, batch, step, micro):
    if self.world.rank == 1 and step == 2:
        raise ValueError("a fault of this process")
    return loss(self, batch, step, micro)
Finetuning.loss = failing
"""
KEYS = ["steps=6", "validate_every=3", "accumulate=2", "tune.batch_seconds=3",
        "tune.layer_drop=0.2", "tune.freeze_updates=1"]  # fmt: skip


def evaluate(
    corpus: Corpus, out: Path, processes: int, *arguments: str, script: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Fine-tune a toy, then train its frozen heads, in processes that work in step."""
    file = out.with_suffix(".py")
    file.write_text(f"{IN_STEP}{script}\nif __name__ == '__main__':\n    main()\n")
    where = ["--corpus", str(corpus.root), "--out", str(out), "--device", "cpu"]
    tasks = ["--task", "phoneme_tiny", "--task", recipe("asr_finetune")]
    return subprocess.run(
        [*torchrun(processes), str(file), "evaluate", f"random:{TOY}", *tasks, *where, *KEYS,
         *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(OMP_NUM_THREADS="1"),
        check=False,
    )  # fmt: skip


def model(out: Path) -> dict[str, Any]:
    (file,) = out.glob("runs/asr*/model.pt")
    stored = torch.load(file, weights_only=True)
    return {**stored["encoder"], **{f"head.{k}": v for k, v in stored["head"].items()}}


def record(out: Path) -> dict[str, Any]:
    (file,) = (path for path in out.glob("asr*.json"))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.long
def test_two_processes_make_the_updates_of_one(corpus: Corpus, tmp_path: Path) -> None:
    outs = {count: tmp_path / str(count) for count in (1, 2)}
    for count, out in outs.items():
        done = evaluate(corpus, out, count, "sweep=1e-2,3e-3")
        assert done.returncode == 0, done.stderr
        assert len(list(out.glob("*.json"))) == 2, "the frozen row, too"
        assert not list(out.rglob("checkpoint.pt"))
    assert largest_difference(model(outs[1]), model(outs[2])) < 1e-6
    one, two = map(record, outs.values())
    assert one["metrics"] == two["metrics"]
    assert one["sweep"] == two["sweep"]
    hypotheses = [next(out.glob("asr*.hyp.jsonl")).read_text() for out in outs.values()]
    assert hypotheses[0] == hypotheses[1]
    again = evaluate(corpus, outs[2], 2, "sweep=1e-2,3e-3")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("already evaluated") == 2


@pytest.mark.long
def test_a_row_that_fails_in_all_processes_does_not_stop_the_others(
    corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = evaluate(corpus, out, 2, "fbank", "sweep=1e30", "clip_norm=0", "tune.phases=[0,1,0]")
    assert done.returncode != 0
    # each row at once, and at the end; none in both processes
    assert done.stderr.count("failed at every learning rate") == 2 * 3, done.stderr
    assert done.stderr.count("upstream 'fbank': cannot be fine-tuned") == 2 * 1, done.stderr
    assert "different places" not in done.stderr


@pytest.mark.long
def test_a_process_that_fails_alone_ends_all_with_one_line(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = evaluate(corpus, out, 2, "sweep=1e-2", script=ALONE_FAILS)
    assert done.returncode != 0
    assert done.stderr.count("process 1 of 2: ValueError: a fault of this process") == 1
    assert not list(out.glob("asr*.json"))
