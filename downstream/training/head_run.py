"""One head of a sweep, with its best weights; its form in checkpoints and in a file of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.record_parts import Trial

# in a checkpoint; those of earlier revisions have no looks
STORED = ("best", "step", "waited", "diverged", "stopped", "state", "looks")
Looks = dict[int, Tensor]  # update -> scores of the answers on test (N,)


@dataclass
class HeadRun:
    """One learning rate and seed: its best score on valid so far, and the weights that gave it.

    `layer` is the hidden state that it reads; None: their weighted sum.
    """

    lr: float
    seed: int
    head: nn.Module
    layer: int | None = None
    best: float = math.nan
    step: int = 0
    state: dict[str, Tensor] | None = None
    waited: int = 0  # validations since the best one
    diverged: bool = False
    stopped: bool = False  # by patience
    looks: Looks = field(default_factory=dict)  # see Task.looks

    @property
    def active(self) -> bool:
        """Whether it is still trained."""
        return not (self.diverged or self.stopped)

    def keep(self, value: float, step: int) -> None:
        """Take the head's present weights as the best so far."""
        self.best, self.step, self.waited = value, step, 0
        self.state = {name: x.clone() for name, x in self.head.state_dict().items()}

    def look(self, answers: Sequence[Answer], step: int) -> None:
        """Keep the scores on test of the head's present weights, which are far larger."""
        self.looks[step] = torch.tensor([float(answer["hypothesis"]) for answer in answers])

    def variants(self) -> dict[str, list[str]]:
        """Return what look() kept, as Decoded.variants: the texts that the task gave."""
        return {
            f"update {step}": [f"{score:.8f}" for score in scores.tolist()]
            for step, scores in self.looks.items()
        }

    def load_best(self) -> None:
        """Give the head its best weights, if there are any."""
        if self.state is not None:
            self.head.load_state_dict(self.state)

    def trial(self) -> Trial:
        """Return what a record holds of it."""
        valid = None if self.state is None else self.best
        trial: Trial = {
            "lr": self.lr,
            "seed": self.seed,
            "valid": valid,
            "steps": self.step,
            "chosen": False,
        }
        return trial if self.layer is None else {**trial, "layer": self.layer}


def stored(runs: Sequence[HeadRun]) -> list[dict[str, object]]:
    """Return what a checkpoint holds of runs beside their heads' present weights."""
    return [{name: getattr(run, name) for name in STORED} for run in runs]


def restore(runs: Sequence[HeadRun], checkpoint: Mapping[str, object]) -> None:
    """Take what stored() returned."""
    rows = cast("list[dict[str, object]]", checkpoint["trials"])
    for run, row in zip(runs, rows, strict=True):
        for name, value in row.items():
            setattr(run, name, value)
        # cloned: the file that they are mapped from will be removed
        run.state = run.state and {name: x.clone() for name, x in run.state.items()}
        run.looks = {step: x.clone() for step, x in run.looks.items()}


def save_run(run: HeadRun, file: Path, *, seconds: float) -> None:
    """Write a trained head into a file; `seconds` are its training's."""
    checkpoint.save({"trials": stored([run]), "seconds": seconds}, file)


def load_run(run: HeadRun, file: Path) -> float:
    """Give a run what save_run() wrote, with its best weights; return the seconds."""
    saved = checkpoint.load(file)
    restore([run], saved)
    run.load_best()
    return cast("float", saved["seconds"])
