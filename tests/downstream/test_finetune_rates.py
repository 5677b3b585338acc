"""Fine-tuning by several processes: the same updates, validations and hypotheses as by one."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import TOY, environment, largest_difference, recipe, torchrun
from mt4ssl_bench.data.corpus import Corpus

TRAIN = """
import json, sys
from pathlib import Path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.training.finetune_rates import train_finetuned
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.training.launch import joined

root, upstream, recipe, out, *keys = sys.argv[1:]
with joined("cpu") as world:
    job = plan(recipe, Corpus.open(root), keys)
    folder = Path(out)
    trained = train_finetuned(
        load_upstream(f"random:{upstream}", device="cpu"), job, job.folds(), folder=folder,
        world=world, clock=Clock(),
    )
    hypotheses = trained.decoded[0].hypotheses
    (folder / f"rank-{world.rank}.json").write_text(json.dumps([trained.trials, hypotheses]))
"""
KEYS = ["steps=6", "validate_every=3", "sweep=1e-2,3e-3", "tune.batch_seconds=3",
        "tune.layer_drop=0.2", "tune.freeze_updates=1"]  # fmt: skip


def train(
    corpus: Corpus, out: Path, processes: int, *keys: str
) -> "subprocess.CompletedProcess[str]":
    script = out.with_suffix(".py")
    script.write_text(TRAIN)
    argv = [str(script), str(corpus.root), TOY, recipe("asr_finetune"), str(out), *KEYS, *keys]
    return subprocess.run(
        [*torchrun(processes), *argv],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(OMP_NUM_THREADS="1"),
        check=False,
    )


def model(out: Path) -> dict[str, Any]:
    stored = torch.load(out / "model.pt", weights_only=True)
    return {**stored["encoder"], **{f"head.{k}": v for k, v in stored["head"].items()}}


@pytest.mark.long
def test_two_processes_make_the_updates_of_one(corpus: Corpus, tmp_path: Path) -> None:
    for processes, accumulate in ((1, 2), (2, 1)):
        done = train(corpus, tmp_path / str(processes), processes, f"accumulate={accumulate}")
        assert done.returncode == 0, done.stderr
    assert largest_difference(model(tmp_path / "1"), model(tmp_path / "2")) < 1e-6
    texts = [file.read_text() for file in sorted(tmp_path.glob("*/rank-*.json"))]
    assert len(texts) == 3
    assert texts[0] == texts[1] == texts[2], "every process has the trials and the hypotheses"


@pytest.mark.long
def test_an_error_of_one_process_ends_the_rate_in_all(corpus: Corpus, tmp_path: Path) -> None:
    done = train(corpus, tmp_path / "out", 2, "sweep=1e30", "clip_norm=0", "tune.phases=[0,1,0]")
    assert done.returncode != 0
    assert done.stderr.count("failed at every learning rate") == 1
