"""Heads at every learning rate and seed, trained side by side on one reading of the features.

The best on valid wins.

Shapes: B batch, T frames, L hidden states, D dimension, V outputs, K heads.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench.data.batches import Batches, endless
from mt4ssl_bench.downstream.config import rates
from mt4ssl_bench.downstream.heads.run_heads import independent, run_heads, serial
from mt4ssl_bench.downstream.task import Answers, Task
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.threads import side_by_side
from mt4ssl_bench.training.fit import Fit, FitConfig, FitReport, Hooks, StepLoss
from mt4ssl_bench.training.optim import OptimConfig
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes

LOGGER = logging.getLogger(__name__)
EVALUATION_BATCH = 32
KEPT = ("best", "step", "waited", "diverged", "stopped")  # of a trial, in a checkpoint


@dataclass
class Trial:
    """One learning rate and seed: its best score on valid so far, and the weights that gave it."""

    lr: float
    seed: int
    head: nn.Module
    best: float = math.nan
    step: int = 0
    state: dict[str, Tensor] | None = None
    waited: int = 0  # validations since the best one
    diverged: bool = False
    stopped: bool = False  # by patience

    @property
    def active(self) -> bool:
        """Return whether it is still trained."""
        return not (self.diverged or self.stopped)


class Split:
    """One split's cuts with their features.

    Batches() yields (cuts, features (L, B, T, D), frames (B,)).
    """

    def __init__(
        self, cuts: Sequence[Any], features: FeatureSet, *, pooled: bool, device: str
    ) -> None:
        self.cuts, self.features, self.pooled, self.device = list(cuts), features, pooled, device

    def batches(
        self, count: int, *, epoch: int = 0, skip: int = 0, seed: int = 0, shuffle: bool = False
    ) -> Iterator[tuple[list[Any], Tensor, Tensor]]:
        """Yield batches of `count` utterances of similar lengths."""
        make = Batches(self.cuts, list, count=count, seed=seed, shuffle=shuffle)
        for cuts in make(epoch, skip):
            features, lengths = self.features.batch([cut.id for cut in cuts])
            if self.pooled:  # (L, B, K, D): one of the K crops, as if it were the only frame
                taken = (
                    torch.randint(0, features.shape[2], (len(cuts),))
                    if shuffle
                    else torch.zeros(len(cuts)).long()
                )
                features, lengths = (
                    features[:, torch.arange(len(cuts)), taken][:, :, None],
                    torch.ones_like(lengths),
                )
            yield cuts, features.to(self.device), lengths.to(self.device)


class Sweep:
    """The heads of one task on one upstream; run() returns the chosen trial."""

    def __init__(self, task: Task, num_layers: int, dim: int, *, device: str) -> None:
        self.task, self.config = task, task.config
        self.better: Callable[[float, float], bool] = (
            float.__gt__ if METRICS[task.metric].higher_is_better else float.__lt__
        )
        self.trials: list[Trial] = []
        self._executor: Executor | None = None  # of heads that train side by side
        self._began, self._earlier = time.monotonic(), 0.0  # seconds of interrupted calls
        for seed in self.config.seeds:
            torch.manual_seed(seed)
            first = task.head(num_layers, dim).to(device)  # the same initial weights at every rate
            self.trials += [
                Trial(lr=lr, seed=seed, head=copy.deepcopy(first)) for lr in rates(self.config)
            ]

    @property
    def active(self) -> list[Trial]:
        """Return the trials that are still trained."""
        return [trial for trial in self.trials if trial.active]

    @property
    def seconds(self) -> float:
        """Return the seconds of training, interrupted calls included."""
        return self._earlier + time.monotonic() - self._began

    def run(
        self, train: Split, valid: Split, title: str, folder: PassingFolder | None = None
    ) -> Trial:
        """Train all trials and return the best, its best weights loaded.

        Args:
            train, valid: the splits.
            title: names the row in messages.
            folder: keeps the heads' state while they are trained; an interrupted call continues.

        Raises:
            TrainingError: If all trials diverged.
            KeyboardInterrupt: If a stop was asked for; the state is saved.
        """
        self._began = time.monotonic()
        try:
            apart = serial(self.trials[0].head)
            with side_by_side(len(self.trials)) if apart else nullcontext() as self._executor:
                if not self._fit(train, valid, title, folder).finished:
                    raise KeyboardInterrupt
        except _EnoughError:
            LOGGER.info(
                "%s: no head is left to train; stopped early (patience=%d)",
                title,
                self.config.patience,
            )
        return self._chosen(title)

    def _fit(
        self, train: Split, valid: Split, title: str, folder: PassingFolder | None
    ) -> FitReport:
        config, targets = self.config, {cut.id: self.task.target(cut) for cut in train.cuts}

        def batches(epoch: int, skip: int) -> Iterator[tuple[list[Any], Tensor, Tensor]]:
            return train.batches(
                config.batch, epoch=epoch, skip=skip, seed=config.seeds[0], shuffle=True
            )

        def loss(
            batch: tuple[list[Any], Tensor, Tensor],
            step: int,
            micro: int,  # noqa: ARG001
        ) -> StepLoss:
            cuts, features, lengths = batch
            trials = self.active
            compute = self._backward if self._executor else self._losses
            losses = compute(trials, features, lengths, [targets[cut.id] for cut in cuts])
            for trial, value in zip(trials, losses.tolist(), strict=True):
                if not math.isfinite(value):
                    self._give_up(trial, title, step)
            kept = losses[torch.tensor([trial.active for trial in trials], device=losses.device)]
            return StepLoss(total=kept.sum(), count=1)

        def diverged(step: int, groups: Collection[int]) -> None:
            for number in groups:
                self._give_up(self.trials[number], title, step)

        return Fit(
            nn.ModuleList(trial.head for trial in self.trials),
            endless(batches),
            loss,
            self._optim(),
            FitConfig(
                steps=config.steps,
                seed=config.seeds[0],
                accumulate=config.accumulate,
                log_every=config.steps,
                validate_every=config.validate_every,
            ),
            groups=[
                {"params": list(trial.head.parameters()), "lr": trial.lr} for trial in self.trials
            ],
            folder=folder,
            hooks=Hooks(
                validate=lambda step: self._validate(valid, step, title),
                diverged=diverged,
                state=self._state,
                restore=self._restore,
            ),
            title=title,
        )()

    @property
    def checkpoint_bytes(self) -> int:
        """Return the bytes of a checkpoint of all trials."""
        return checkpoint_bytes(p for trial in self.trials for p in trial.head.parameters())

    def _give_up(self, trial: Trial, title: str, step: int) -> None:
        """Mark a trial as diverged.

        Raises TrainingError where no trial is active or has a score.
        """
        trial.diverged = True
        LOGGER.info("%s: lr %g, seed %d diverged at update %d", title, trial.lr, trial.seed, step)
        if self.active:
            return
        if any(trial.state is not None for trial in self.trials):
            raise _EnoughError
        raise TrainingError(
            f"{title}: every learning rate of {list(rates(self.config))} diverged; try lower ones"
        )

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside weights and optimizer."""
        trials = [
            {name: getattr(trial, name) for name in KEPT} | {"state": trial.state}
            for trial in self.trials
        ]
        return {"trials": trials, "seconds": self.seconds}

    def _restore(self, stored: Mapping[str, Any]) -> None:
        """Take back what _state() returned."""
        for trial, values in zip(self.trials, stored["trials"], strict=True):
            for name in KEPT:
                setattr(trial, name, values[name])
            state = values["state"]  # cloned: the file that they are mapped from will go
            trial.state = state and {name: tensor.clone() for name, tensor in state.items()}
        self._earlier = stored["seconds"]

    def _optim(self) -> OptimConfig:
        """Return SUPERB's: Adam at a constant rate; the norm is clipped in each head by itself."""
        return OptimConfig(
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="constant",
            clip_norm=self.config.clip_norm,
        )

    def _chosen(self, title: str) -> Trial:
        """Return the best trial, its best weights loaded."""
        alive = [trial for trial in self.trials if trial.state is not None]
        if not alive:
            raise TrainingError(
                f"{title}: no learning rate of {list(rates(self.config))} gave a finite score; try "
                "lower ones"
            )
        chosen = alive[0]
        for trial in alive[1:]:
            chosen = trial if self.better(trial.best, chosen.best) else chosen
        assert chosen.state is not None
        chosen.head.load_state_dict(chosen.state)
        return chosen

    def _losses(
        self, trials: list[Trial], features: Tensor, lengths: Tensor, targets: list[Tensor]
    ) -> Tensor:
        """Return the mean loss of each trial (K,)."""
        logits, frames = run_heads(
            [trial.head for trial in trials], features, lengths
        )  # (K, B, ..., V)
        rows = self.task.loss(
            logits.flatten(0, 1), frames.repeat(len(trials)), targets * len(trials)
        )
        return rows.view(logits.shape[:2]).mean(1)

    def _backward(
        self, trials: list[Trial], features: Tensor, lengths: Tensor, targets: list[Tensor]
    ) -> Tensor:
        """Return what _losses() does, each finite trial's gradient added in a thread of its own."""

        def train(logits: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
            loss = self.task.loss(*logits(), targets).mean()
            if loss.isfinite():
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        assert self._executor is not None
        calls = independent([trial.head for trial in trials], features, lengths)
        losses = torch.stack(list(self._executor.map(train, calls)))
        return losses.requires_grad_()  # the trainer's backward() ends here

    def _validate(self, valid: Split, step: int, title: str) -> dict[str, float]:
        found, trials = {}, self.active
        answers, cuts = self.decode([trial.head for trial in trials], valid)
        for trial, hypotheses in zip(trials, answers, strict=True):
            if hypotheses is None:
                self._give_up(trial, title, step)
                continue
            value = self.task.measure(self.task.references(cuts), hypotheses)
            found[
                f"lr {trial.lr:g}" + (f", seed {trial.seed}" if len(self.config.seeds) > 1 else "")
            ] = value
            if math.isfinite(value) and (trial.state is None or self.better(value, trial.best)):
                trial.best, trial.step, trial.waited = value, step, 0
                trial.state = {
                    name: tensor.clone() for name, tensor in trial.head.state_dict().items()
                }
            else:
                trial.waited += 1
                trial.stopped = 0 < self.config.patience <= trial.waited
        if not self.active:
            raise _EnoughError
        return found

    @torch.no_grad()
    def logits(self, head: nn.Module, split: Split) -> Iterator[Answers]:
        """Yield one head's answers to a split, in the order of decode()."""
        head.eval()
        for cuts, features, lengths in split.batches(EVALUATION_BATCH):
            yield cuts, *head(features, lengths)

    @torch.no_grad()
    def decode(
        self, heads: Sequence[nn.Module], split: Split
    ) -> tuple[list[list[str] | None], list[Any]]:
        """Return each head's hypotheses of a split, None if its logits are not finite, and the
        cuts, in one order.
        """
        for head in heads:
            head.eval()
        hypotheses: list[list[str]] = [[] for _ in heads]
        finite = torch.ones(len(heads), dtype=torch.bool, device=split.device)
        members: list[Any] = []
        for cuts, features, lengths in split.batches(EVALUATION_BATCH):
            logits, frames = run_heads(heads, features, lengths)
            finite &= logits.isfinite().flatten(1).all(1)
            for own, rows in zip(hypotheses, logits, strict=True):
                own.extend(self.task.decode(rows, frames))
            members += cuts
        for head in heads:
            head.train()
        sound = zip(hypotheses, finite.tolist(), strict=True)
        return [own if good else None for own, good in sound], members


class _EnoughError(Exception):
    """No head is trained any more."""
