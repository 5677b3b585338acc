"""Training on a frozen upstream: one pass over the audio, then all heads from stored features.

Shapes: L hidden states, B batch, T frames, D dimension.
"""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import nn

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.heads.run_heads import as_one
from mt4ssl_bench.downstream.heads.weighted_sum import layer_weights
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.layers.best_heads import best_of_layers, by_layer
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Logits
from mt4ssl_bench.downstream.training.choose_rate import choose, chosen
from mt4ssl_bench.downstream.training.decode_test import decode_fold
from mt4ssl_bench.downstream.training.head_run import load_run, save_run
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
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
from mt4ssl_bench.features.store import FeatureStore, LiveFeatures
from mt4ssl_bench.files import LOCK
from mt4ssl_bench.shared_work import Unit, Work, finish, share
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes, discard

HEADS = "heads"  # folder of trained heads, until they are collected
NORMED = 50  # utterances whose norms are measured


class FrozenTraining:
    """The heads of one row: train() shares the work with other processes, result() collects it.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        folds: One training, or one for each value of the task's fold label.
        source: The name that the upstream is loaded by.
        folder: Of the trained heads; an interrupted training continues from it.
        store: Of the features; the processes of its world share the heads, too.
        device: Torch device of the heads.
        clock: Times the stages.
    """

    def __init__(
        self,
        model: Upstream,
        job: Job,
        folds: Sequence[Fold],
        *,
        source: str,
        folder: Path,
        store: FeatureStore,
        device: str,
        clock: Clock,
    ) -> None:
        self.model, self.job, self.folds, self.source = model, job, folds, source
        self.store, self.clock = store, clock
        self._features: dict[str, FeatureSet] = {}
        places = [(fold, f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
        self.parts = [
            _Heads(model, job, fold, folder / name, self._of, device) for fold, name in places
        ]

    def train(self) -> Work[None]:
        """Store the features and train all heads, but for those of other processes.

        Raises:
            KeyboardInterrupt: If a stop was requested during training; its state is saved.
        """
        left, world = [part for part in self.parts if part.finished is None], self.store.world
        for role in ROLES if left else ("test",):
            self._features[role] = yield from self._share(role)
        self.clock.lap("features")
        units = [unit for part in left for unit in part.units(world.size)]
        start = world.rank / world.size
        yield from share(units, start=start, over=lambda: all(part.collected() for part in left))

    def result(self) -> Trained:
        """Return each seed's hypotheses at the rate that is best on valid, over folds and seeds.

        Raises:
            TrainingError: If no rate has a finite score of every seed in every fold.
        """
        folds, parts = self.folds, self.parts
        trainings = [part.collect(self.source) for part in parts]
        self.clock.lap("train", sum(training.seconds for training in trainings))
        metric, title = folds[0].task.choice, f"{self.job.recipe} on {self.model.name}"
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

    def _of(self, role: str) -> FeatureSet:
        if role not in self._features:
            self._features[role] = finish(self._share(role))
        return self._features[role]

    def _share(self, role: str) -> Work[FeatureSet]:
        # with folds, each utterance is in one test set: one entry of the store serves all roles
        cuts = [cut for fold in self.folds for cut in fold.cuts["test" if fold.name else role]]
        info, work = self.job.corpus.info, self.job.forward_pass(self.model, role)
        return self.store.shared(work, info.digest, self.job.split(role), cuts, corpus=info.name)


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
    """Return the result of a FrozenTraining, waiting for other processes."""
    training = FrozenTraining(
        model,
        job,
        folds,
        source=source,
        folder=folder,
        store=store,
        device=device,
        clock=clock,
    )
    finish(training.train())
    return training.result()


@dataclass
class _Heads:
    """The heads of one fold, trained in slices, each by one process, or read from `folder`.

    A slice leaves a file of each head in `folder`/heads; from these, the process that collects
    them writes model.pt. Slices depend on the number of processes, and no head's bits on its slice.
    """

    model: Upstream
    job: Job
    fold: Fold
    folder: Path
    features: Callable[[str], FeatureSet]
    device: str

    def __post_init__(self) -> None:
        model, fold, config = self.model, self.fold, self.job.training
        fold.task.stride = model.stride
        self.title = f"{self.job.recipe} on {model.name}{fold.name and f', fold {fold.name}'}"
        self.meta = meta_of(model, self.job, fold)
        self.found = _written(self.folder)
        self.finished = read_finished(self.folder, self.meta)
        layers = len(config.single_layers(model.num_layers)) or 1
        self.count = layers * len(config.seeds) * len(config.rates)

    def make(self, only: Sequence[int] | None = None) -> Sweep:
        """Return the sweep, or one of some of its heads."""
        task, model = self.fold.task, self.model
        return Sweep(
            task, model.num_layers, model.dim, device=self.device, title=self.title, only=only
        )

    @cached_property
    def sweep(self) -> Sweep:
        """All heads; those that are stored have their best weights after collect()."""
        return self.make()

    @cached_property
    def learnt(self) -> tuple[list[Cut], dict[str, int]]:
        """The cuts to train on, and counts of those that are left out."""
        count = self.features("train").count
        return learnable(self.job, self.fold, lambda cut: count(cut.id))

    @cached_property
    def all_meta(self) -> Meta:
        """What a training depends on, the features included."""
        sources = {role: self.features(role).identity for role in ("train", "valid")}
        return {**self.meta, "features": sources}

    def split(self, role: str) -> Split:
        """Return the cuts of a role with their features."""
        task, features = self.fold.task, self.features(role)
        draw, cuts = None if role == "test" else partial(task.draw, role=role), self.fold.cuts[role]
        return Split(
            cuts, features, pooled=task.pooled, device=self.device, match=task.match, draw=draw
        )

    def units(self, processes: int) -> list[Unit]:
        """Return the slices, for shared_work.share()."""
        parts = min(processes, self.count)
        if parts > 1 and as_one(self.fold.task.head(self.model.num_layers, self.model.dim)):
            parts = 1
        places = [self.count * part // parts for part in range(parts + 1)]
        return [self._unit(range(*pair)) for pair in itertools.pairwise(places)]

    def _unit(self, numbers: range) -> Unit:
        name = f"heads-{numbers[0]}-{numbers[-1]}" if len(numbers) < self.count else ""
        folder = self.folder / name

        def done() -> bool:
            return all(self._file(number).exists() for number in numbers)

        return Unit(folder / LOCK, done, partial(self._train, numbers, folder))

    def _file(self, number: int) -> Path:
        """Return the file of a trained head; other features or units give others."""
        digest = hashlib.sha256(json.dumps(self.all_meta, sort_keys=True).encode()).hexdigest()
        return self.folder / HEADS / f"{digest[:12]}-{number:03d}.pt"

    def _train(self, numbers: Sequence[int], folder: Path) -> None:
        """Train a slice, but for heads that are there, and write a file of each head."""
        left = [number for number in numbers if not self._file(number).exists()]
        train, valid, sweep = self.split("train"), self.split("valid"), self.make(left)
        train.cuts, _ = self.learnt
        size = checkpoint_bytes(sweep.heads.parameters())
        sweep.train(train, valid, PassingFolder(folder, self.all_meta, size=size))
        for number, run in zip(left, sweep.runs, strict=True):
            save_run(run, self._file(number), seconds=sweep.watch.seconds / len(left))

    def collected(self) -> bool:
        """Return whether another process has written model.pt since this one began."""
        return _written(self.folder) != self.found

    def collect(self, source: str) -> Training:
        """Return the training; each head that is stored then has its best weights."""
        self.finished = self.finished or read_finished(self.folder, self.meta)
        training = self.finished[0] if self.finished else self._collected()
        metric = None if self.fold.name else self.fold.task.choice
        head = heads_to_store(self.sweep.runs, training, metric)
        if self.finished:
            head.load_state_dict(self.finished[1]["head"])
        else:
            save_model(self.folder, self.fold.task, self.model, training, head, source=source)
        for place in (self.folder, *self.folder.glob("heads-*")):
            discard(place)
        shutil.rmtree(self.folder / HEADS, ignore_errors=True)
        return training

    def _collected(self) -> Training:
        runs, metric = self.sweep.runs, self.sweep.metric
        seconds = [load_run(run, self._file(number)) for number, run in enumerate(runs)]
        normalized = self.job.training.head.layer_norm
        split = self.split("train")
        split.cuts, left_out = self.learnt
        return Training(
            meta=self.meta,
            trials=choose([[run.trial() for run in runs]], metric, self.title),
            counts=left_out,
            seconds=sum(seconds),
            layer_norms=layer_norms(split, normalized=normalized),
        )

    def logits(self, head: nn.Module, role: str) -> Iterator[Logits]:
        """Yield the logits of a head on a split, whose features are read when they are needed."""
        yield from self.sweep.logits(head, self.split(role))


def _written(folder: Path) -> int:
    """Return when model.pt was written, in nanoseconds; 0 if it is not there."""
    file = folder / "model.pt"
    return file.stat().st_mtime_ns if file.exists() else 0


def _decode(parts: Sequence[_Heads], number: int, *, with_lm: bool) -> tuple[Decoded, list[Cut]]:
    """Return the hypotheses on test of one seed, of run `number` of each fold, and the cuts."""
    runs = [part.sweep.runs[number] for part in parts]
    decoded, cuts = Decoded(seed=runs[0].seed), list[Cut]()
    for part, run in zip(parts, runs, strict=True):
        logits = partial(part.logits, run.head)
        cuts += decode_fold(decoded, part.fold, logits, title=part.title)
    if with_lm:
        logits = partial(parts[0].logits, runs[0].head)
        decoded.with_lm = parts[0].fold.task.answer_with_lm(logits)
    return decoded, cuts


def layer_norms(split: Split, *, normalized: bool) -> list[float]:
    """Return the mean L2 norm of each hidden state (L,), over frames of up to NORMED utterances."""
    if isinstance(split.features, LiveFeatures):
        return []  # each reading would be one more pass of the upstream
    norms = []
    for cut in split.cuts[:: -(-len(split.cuts) // NORMED)]:
        x, _ = split.features.batch([cut.id])  # (L, 1, T, D)
        x = F.layer_norm(x, x.shape[-1:]) if normalized else x
        norms.append(x[:, 0].norm(dim=-1).double())  # (L, T)
    return [float(norm) for norm in torch.cat(norms, dim=1).mean(1)]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column."""
    return [fmean(column) for column in zip(*rows, strict=True)]
