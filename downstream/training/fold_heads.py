"""The heads of one fold: trained in slices, each by one process, and collected into model.pt.

Shapes: L hidden states, B batch, T frames, D dimension.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.heads.run_heads import as_one
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Logits
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.head_run import load_run, save_run
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
    Training,
    heads_to_store,
    meta_of,
    read_finished,
    save_model,
)
from mt4ssl_bench.downstream.training.sweep import Split, Splits, Sweep, train_sweeps
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.files import LOCK
from mt4ssl_bench.shared_work import Unit
from mt4ssl_bench.training.run_folder import CHECKPOINT, PassingFolder, checkpoint_bytes, discard

HEADS = "heads"  # folder of trained heads, until they are collected
NORMED = 50  # utterances whose norms are measured
AT_ONCE = 8  # of them


@dataclass
class FoldHeads:
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
        features, task = self.features("train"), self.fold.task

        def count(cut: Cut) -> int:
            frames = features.count(cut.id)
            # counts of live features may be one off: where that decides, they are computed
            near = not task.pooled and abs(frames - task.frames_needed(cut)) <= 1
            return features.get(cut.id).shape[1] if near and features.identity == "live" else frames

        return learnable(self.job, self.fold, count)

    @cached_property
    def all_meta(self) -> Meta:
        """What a training depends on, stored features included."""
        # stored values must be those of the checkpoint; live ones have the same, as far as they go
        sources = {role: self.features(role).identity for role in ("train", "valid")}
        stored = {f"features of {k}": mark for k, mark in sources.items() if mark != "live"}
        return {**self.meta, **stored}

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
        if parts > 1 and (not self.fold.task.divisible or self.as_one):
            parts = 1
        places = [self.count * part // parts for part in range(parts + 1)]
        return [self._unit(range(*pair)) for pair in itertools.pairwise(places)]

    @property
    def as_one(self) -> bool:
        """Whether all heads are one batched problem."""
        return as_one(self.fold.task.head(self.model.num_layers, self.model.dim))

    @property
    def begun(self) -> bool:
        """Whether a training of this fold by itself was interrupted."""
        return (self.folder / CHECKPOINT).exists()

    def _unit(self, numbers: range) -> Unit:
        name = f"heads-{numbers[0]}-{numbers[-1]}" if len(numbers) < self.count else ""
        folder = self.folder / name
        make = partial(_train, [self], numbers, folder, self.title)
        return Unit(folder / LOCK, partial(self.trained, numbers), make)

    def trained(self, numbers: Sequence[int]) -> bool:
        """Return whether these heads have their files, or model.pt was made of them."""
        return self.collected() or not self.left(numbers)

    def left(self, numbers: Sequence[int]) -> list[int]:
        """Return those of these heads that have no file."""
        return [number for number in numbers if not self.file(number).exists()]

    def file(self, number: int) -> Path:
        """Return the file of a trained head; other features or units give others."""
        return self.folder / HEADS / f"{self.mark}-{number:03d}.pt"

    @cached_property
    def mark(self) -> str:
        """A digest of all that a training depends on; waiting processes ask for it all the time."""
        text = json.dumps(self.all_meta, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def splits(self) -> Splits:
        """Return the splits of a training."""
        train, valid = self.split("train"), self.split("valid")
        train.cuts, _ = self.learnt
        test = self.split("test") if self.fold.task.looks else None
        return Splits(train, valid, test, self.fold.name and f"fold {self.fold.name}, ")

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
            for run, looks in zip(self.sweep.runs, training.looks, strict=False):
                run.looks = looks
        else:
            save_model(self.folder, self.fold.task, self.model, training, head, source=source)
        for place in (self.folder, *self.folder.glob("heads-*")):
            discard(place)
        shutil.rmtree(self.folder / HEADS, ignore_errors=True)
        return training

    def _collected(self) -> Training:
        runs, metric = self.sweep.runs, self.sweep.metric
        seconds = [load_run(run, self.file(number)) for number, run in enumerate(runs)]
        normalized = self.job.training.head.layer_norm
        split = self.split("train")
        split.cuts, left_out = self.learnt
        return Training(
            meta=self.meta,
            trials=choose([[run.trial() for run in runs]], metric, self.title),
            counts=left_out,
            seconds=sum(seconds),
            layer_norms=layer_norms(split, normalized=normalized),
            looks=[run.looks for run in runs],
        )

    def logits(self, head: nn.Module, role: str) -> Iterator[Logits]:
        """Yield the logits of a head on a split, whose features are read when they are needed."""
        yield from self.sweep.logits(head, self.split(role))


def units_of(parts: Sequence[FoldHeads], folder: Path, processes: int, *, title: str) -> list[Unit]:
    """Return the work on several folds, for shared_work.share().

    Pooled linear heads of all folds are one batched problem, and one unit, whose bits do not depend
    on the number of processes. Folds that an earlier revision has begun one by one end so.

    Args:
        parts: The folds.
        folder: Of the training of all.
        processes: That share the work.
        title: Names the training of all in messages.
    """
    apart = [part for part in parts if part.begun]
    if apart:  # an earlier revision trained one by one: what it has finished stays
        apart += [part for part in parts if part.trained(range(part.count))]
    whole = [part for part in parts if part.fold.task.pooled and part.as_one]
    together = [part for part in whole if part not in apart]
    if len(together) < 2:
        return [unit for part in parts for unit in part.units(processes)]
    numbers = range(together[0].count)

    def done() -> bool:
        return all(part.trained(numbers) for part in together)

    unit = Unit(folder / LOCK, done, partial(_train, together, numbers, folder, title))
    others = [part for part in parts if part not in together]
    return [unit, *(unit for part in others for unit in part.units(processes))]


def _train(parts: Sequence[FoldHeads], numbers: Sequence[int], folder: Path, title: str) -> None:
    """Train heads of some folds, but for those that are there, and write a file of each."""
    left = [(part, own) for part in parts if (own := part.left(numbers))]
    if parts[0].as_one:  # fewer would be another product, and not those of the checkpoint
        left = [(part, list(numbers)) for part in parts]
    sweeps = [part.make(own) for part, own in left]
    metas = {part.fold.name: part.all_meta for part, _ in left}
    meta: Meta = {"folds": metas} if len(metas) > 1 else left[0][0].all_meta
    heads = [weights for sweep in sweeps for weights in sweep.heads.parameters()]
    passing = PassingFolder(folder, meta, size=checkpoint_bytes(heads))
    seconds = train_sweeps(sweeps, [part.splits() for part, _ in left], passing, title=title)
    for (part, own), sweep in zip(left, sweeps, strict=True):
        for number, run in zip(own, sweep.runs, strict=True):
            save_run(run, part.file(number), seconds=seconds / len(metas) / len(own))


def _written(folder: Path) -> int:
    """Return when model.pt was written, in nanoseconds; 0 if it is not there."""
    file = folder / "model.pt"
    return file.stat().st_mtime_ns if file.exists() else 0


def layer_norms(split: Split, *, normalized: bool) -> list[float]:
    """Return the mean L2 norm of each hidden state (L,), over frames of up to NORMED utterances."""
    norms, names = [], [cut.id for cut in split.cuts[:: -(-len(split.cuts) // NORMED)]]
    batches = (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE))
    for features, lengths in split.features.stream(batches, "cpu"):
        x = F.layer_norm(features, features.shape[-1:]) if normalized else features  # (L, B, T, D)
        real = torch.arange(x.shape[2]) < lengths[:, None]  # (B, T)
        norms.append(x.norm(dim=-1)[:, real].double())  # (L, N)
    return [float(norm) for norm in torch.cat(norms, dim=1).mean(1)]
