"""Training on a frozen upstream: one pass over the audio, then all heads from stored features.

Shapes: L hidden states, B batch, T frames, D dimension.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import nn

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.heads.weighted_sum import layer_weights
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.layers.best_heads import best_of_layers, by_layer
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Logits
from mt4ssl_bench.downstream.training.choose_rate import choose, chosen
from mt4ssl_bench.downstream.training.decode_test import decode_fold
from mt4ssl_bench.downstream.training.readings import readings
from mt4ssl_bench.downstream.training.saved_model import (
    Training,
    heads_to_store,
    meta_of,
    read_finished,
    save_model,
)
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.downstream.training.trained import Decoded, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes, discard

NORMED = 50  # utterances whose norms are measured
AT_ONCE = 8  # of them


def train_frozen(
    model: Upstream,
    job: Job,
    folds: Sequence[Fold],
    *,
    source: str,
    folder: Path,
    store: FeatureStore,
    device: str,
    clock: Clock,
) -> Trained:
    """Return each seed's hypotheses at the rate that is best on valid, over folds and seeds.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        folds: One training, or one for each value of the task's fold label.
        source: The name that the upstream is loaded by.
        folder: Of the trained heads; an interrupted training continues from it.
        store: Of the features.
        device: Torch device of the heads.
        clock: Times the stages.

    Raises:
        TrainingError: If no rate has a finite score of every seed in every fold.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """

    @cache
    def features(role: str) -> FeatureSet:
        # with folds, each utterance is in one test set: one entry of the store serves all roles
        cuts = [cut for fold in folds for cut in fold.cuts["test" if fold.name else role]]
        info, work = job.corpus.info, job.forward_pass(model, role)
        often = readings(job, "train" if folds[0].name else role, len(cuts), len(folds))
        place = info.digest, job.split(role), cuts
        return store.features(work, *place, corpus=info.name, readings=often)

    places = [(fold, f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
    parts = [_Heads(model, job, fold, folder / name, features, device) for fold, name in places]
    for role in ROLES if any(part.finished is None for part in parts) else ("test",):
        features(role)
    clock.lap("features")
    trainings = [part.train(source) for part in parts]
    clock.lap("train", sum(training.seconds for training in trainings))
    metric, title = folds[0].task.choice, f"{job.recipe} on {model.name}"
    trials = choose([training.trials for training in trainings], metric, title)
    numbers = chosen(trials)
    decoded, cuts = dict[int, Decoded](), list[Cut]()
    for number in best_of_layers(trials, metric):
        decoded[number], cuts = _decode(parts, number, with_lm=number in numbers)
    heads = [part.sweep.runs[number].head for number in numbers for part in parts]
    return Trained(
        decoded=[decoded[number] for number in numbers],
        cuts=cuts,
        trials=trials,
        layer_weights=_means([layer_weights(head) for head in heads]),
        layer_norms=_means([training.layer_norms for training in trainings]),
        counts=dict(sum((Counter(training.counts) for training in trainings), Counter())),
        layers=by_layer(trials, decoded),
    )


@dataclass
class _Heads:
    """The heads of one fold, trained here or read from `folder`."""

    model: Upstream
    job: Job
    fold: Fold
    folder: Path
    features: Callable[[str], FeatureSet]
    device: str

    def __post_init__(self) -> None:
        model, fold = self.model, self.fold
        fold.task.stride = model.stride
        title = f"{self.job.recipe} on {model.name}{fold.name and f', fold {fold.name}'}"
        self.sweep = Sweep(fold.task, model.num_layers, model.dim, device=self.device, title=title)
        self.meta = meta_of(model, self.job, fold)
        self.finished = read_finished(self.folder, self.meta)

    def split(self, role: str) -> Split:
        """Return the cuts of a role with their features."""
        task, features = self.fold.task, self.features(role)
        draw, cuts = None if role == "test" else partial(task.draw, role=role), self.fold.cuts[role]
        return Split(
            cuts, features, pooled=task.pooled, device=self.device, match=task.match, draw=draw
        )

    def train(self, source: str) -> Training:
        """Train the sweep, or read it; each head that is stored then has its best weights."""
        training = self.finished[0] if self.finished else self._train()
        metric = None if self.fold.name else self.fold.task.choice
        head = heads_to_store(self.sweep.runs, training, metric)
        if self.finished:
            head.load_state_dict(self.finished[1]["head"])
        else:
            save_model(self.folder, self.fold.task, self.model, training, head, source=source)
        discard(self.folder)
        return training

    def _train(self) -> Training:
        train, valid, sweep = self.split("train"), self.split("valid"), self.sweep
        count = train.features.count
        train.cuts, left_out = learnable(self.job, self.fold, lambda cut: count(cut.id))
        # stored values must be those of the checkpoint; live ones have the same, as far as they go
        sources = {"train": train.features.identity, "valid": valid.features.identity}
        stored = {f"features of {k}": mark for k, mark in sources.items() if mark != "live"}
        folder = PassingFolder(
            self.folder, {**self.meta, **stored}, size=checkpoint_bytes(sweep.heads.parameters())
        )
        sweep.run(train, valid, folder)
        for run in sweep.runs:
            run.load_best()
        return Training(
            meta=self.meta,
            trials=choose([[run.trial() for run in sweep.runs]], sweep.metric, sweep.title),
            counts=left_out,
            seconds=sweep.watch.seconds,
            layer_norms=layer_norms(train, normalized=self.job.training.head.layer_norm),
        )

    def logits(self, head: nn.Module, role: str) -> Iterator[Logits]:
        """Yield the logits of a head on a split, whose features are read when they are needed."""
        yield from self.sweep.logits(head, self.split(role))


def _decode(parts: Sequence[_Heads], number: int, *, with_lm: bool) -> tuple[Decoded, list[Cut]]:
    """Return the hypotheses on test of one seed, of run `number` of each fold, and the cuts."""
    runs = [part.sweep.runs[number] for part in parts]
    decoded, cuts = Decoded(seed=runs[0].seed), list[Cut]()
    for part, run in zip(parts, runs, strict=True):
        logits = partial(part.logits, run.head)
        cuts += decode_fold(decoded, part.fold, logits, title=part.sweep.title)
    if with_lm:
        logits = partial(parts[0].logits, runs[0].head)
        decoded.with_lm = parts[0].fold.task.answer_with_lm(logits)
    return decoded, cuts


def layer_norms(split: Split, *, normalized: bool) -> list[float]:
    """Return the mean L2 norm of each hidden state (L,), over frames of up to NORMED utterances."""
    norms, names = [], [cut.id for cut in split.cuts[:: -(-len(split.cuts) // NORMED)]]
    batches = (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE))
    for features, lengths in split.features.stream(batches, "cpu"):
        x = F.layer_norm(features, features.shape[-1:]) if normalized else features  # (L, B, T, D)
        real = torch.arange(x.shape[2]) < lengths[:, None]  # (B, T)
        norms.append(x.norm(dim=-1)[:, real].double())  # (L, N)
    return [float(norm) for norm in torch.cat(norms, dim=1).mean(1)]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column."""
    return [fmean(column) for column in zip(*rows, strict=True)]
