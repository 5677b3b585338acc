"""Heads at every learning rate, trained side by side on one reading of the features; the best on valid is kept.

Shapes: B batch, T frames, L hidden states, D dimension.
"""

import copy
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mt4ssl_bench.batching import Batches, endless
from mt4ssl_bench.corpus import speaker_of
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.feature_file import FeatureSet
from mt4ssl_bench.metrics import METRICS
from mt4ssl_bench.optim import OptimConfig
from mt4ssl_bench.training import Fit, FitConfig, StepLoss

LOGGER = logging.getLogger(__name__)


@dataclass
class Trial:
    """One learning rate: its best score on valid so far, and the head that gave it."""

    lr: float
    head: nn.Module
    best: float = math.nan
    step: int = 0
    state: dict[str, Tensor] | None = None
    diverged: bool = False


class Split:
    """One split's cuts with their features; batches() yields (cuts, features (B, T, L, D), frames (B,))."""

    def __init__(self, cuts: Sequence[Any], features: FeatureSet, *, pooled: bool, device: str) -> None:
        self.cuts, self.features, self.pooled, self.device = list(cuts), features, pooled, device

    def batches(
        self, count: int, *, epoch: int = 0, skip: int = 0, seed: int = 0, shuffle: bool = False
    ) -> Iterator[tuple[list[Any], Tensor, Tensor]]:
        """Yield batches of `count` utterances of similar lengths."""
        make = Batches(self.cuts, list, count=count, seed=seed, shuffle=shuffle)
        for cuts in make(epoch, skip):
            features, lengths = self.features.batch([cut.id for cut in cuts])
            if self.pooled:  # (B, K, L, D): one of the K crops, as if it were the only frame
                taken = torch.randint(0, features.shape[1], (len(cuts),)) if shuffle else torch.zeros(len(cuts)).long()
                features, lengths = (
                    features[torch.arange(len(cuts)), taken][:, None],
                    torch.ones_like(lengths),
                )
            yield cuts, features.to(self.device), lengths.to(self.device)


class Sweep:
    """The heads of one task on one upstream; run() returns the chosen trial."""

    def __init__(self, task: Task, num_layers: int, dim: int, *, device: str) -> None:
        self.task, self.config, self.device = task, task.config, device
        self.better: Callable[[float, float], bool] = (
            float.__gt__ if METRICS[task.metric].higher_is_better else float.__lt__
        )
        torch.manual_seed(self.config.seed)
        first = task.head(num_layers, dim)  # the same initial weights at every rate
        self.trials = [Trial(lr=lr, head=copy.deepcopy(first).to(device)) for lr in self.config.sweep]

    def run(self, train: Split, valid: Split, title: str) -> Trial:
        """Train all rates; raises TrainingError when every one diverged."""
        config = self.config
        targets = {cut.id: self.task.target(cut) for cut in train.cuts}

        def batches(epoch: int, skip: int) -> Iterator[tuple[list[Any], Tensor, Tensor]]:
            return train.batches(config.batch, epoch=epoch, skip=skip, seed=config.seed, shuffle=True)

        def loss(batch: tuple[list[Any], Tensor, Tensor], step: int, micro: int) -> StepLoss:  # noqa: ARG001
            cuts, features, lengths = batch
            wanted = [targets[cut.id] for cut in cuts]
            parts = []
            for trial in self.trials:
                if trial.diverged:
                    continue
                logits, frames = trial.head(features, lengths)
                part = self.task.loss(logits, frames, wanted)
                if math.isfinite(part.item()):
                    parts.append(part)
                else:
                    trial.diverged = True
                    LOGGER.info("%s: lr %g diverged at update %d", title, trial.lr, step)
            if not parts:
                raise TrainingError(f"{title}: every learning rate of {list(config.sweep)} diverged; try lower ones")
            return StepLoss(total=torch.stack(parts).sum(), count=1)

        heads = nn.ModuleList(trial.head for trial in self.trials)
        Fit(
            heads,
            endless(batches),
            loss,
            OptimConfig(
                betas=(0.9, 0.999),
                eps=1e-8,
                weight_decay=0.0,
                schedule="constant",
                clip_norm=config.clip_norm,
            ),
            FitConfig(
                steps=config.steps,
                seed=config.seed,
                accumulate=config.accumulate,
                log_every=config.steps,
                validate_every=config.validate_every,
            ),
            groups=[{"params": list(trial.head.parameters()), "lr": trial.lr} for trial in self.trials],
            validate=lambda step: self._validate(valid, step),
            title=title,
        )()
        alive = [trial for trial in self.trials if trial.state is not None]
        if not alive:
            raise TrainingError(
                f"{title}: no learning rate of {list(config.sweep)} gave a finite score; try lower ones"
            )
        chosen = alive[0]
        for trial in alive[1:]:
            chosen = trial if self.better(trial.best, chosen.best) else chosen
        assert chosen.state is not None
        chosen.head.load_state_dict(chosen.state)
        return chosen

    def _validate(self, valid: Split, step: int) -> dict[str, float]:
        found = {}
        for trial in self.trials:
            if trial.diverged:
                continue
            references, hypotheses, _ = self.decode(trial.head, valid)
            value = self.task.score(references, hypotheses, None)[self.task.metric].value
            found[f"lr {trial.lr:g}"] = value
            if trial.state is None or self.better(value, trial.best):
                trial.best, trial.step = value, step
                trial.state = {name: tensor.clone() for name, tensor in trial.head.state_dict().items()}
        return found

    @torch.no_grad()
    def decode(self, head: nn.Module, split: Split) -> tuple[list[str], list[str], list[Any]]:
        """Return references, hypotheses and cuts of a split, in one order."""
        head.eval()
        references, hypotheses, members = [], [], []
        for cuts, features, lengths in split.batches(EVALUATION_BATCH):
            hypotheses += self.task.decode(*head(features, lengths))
            references += [self.task.reference(cut) for cut in cuts]
            members += cuts
        head.train()
        return references, hypotheses, members


EVALUATION_BATCH = 32


def speakers_of(cuts: Sequence[Any]) -> list[str] | None:
    """Return the speaker of each cut, or None where not every cut has one."""
    speakers = [speaker_of(cut) for cut in cuts]
    return speakers if all(speakers) else None


def sample(cuts: Iterable[Any], limit: int | None) -> list[Any]:
    """Return `limit` cuts in a fixed pseudo-random choice, or all of them."""
    cuts = list(cuts)
    return cuts if limit is None or limit >= len(cuts) else random.Random(0).sample(cuts, limit)  # noqa: S311
