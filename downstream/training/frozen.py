"""Training on a frozen upstream: one pass over the audio, then all heads from stored features.

Shapes: L hidden states, B batch, T frames, D dimension.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.heads.weighted_sum import layer_weights
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Trained
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
    Training,
    meta_of,
    read_finished,
    save_model,
)
from mt4ssl_bench.downstream.training.sweep import Split, Sweep
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.store import FeatureStore, LiveFeatures
from mt4ssl_bench.training.run_folder import PassingFolder, discard

NORMED = 50  # utterances whose norms are measured


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
    """Return the hypotheses on test of the heads whose rate and seed are best on valid.

    With folds, the mean over their scores on valid decides.

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
        TrainingError: If no rate has a finite score in every fold.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """

    @cache
    def features(role: str) -> FeatureSet:
        # with folds, each utterance is in one test set: one entry of the store serves all roles
        cuts = [cut for fold in folds for cut in fold.cuts["test" if fold.name else role]]
        info, work = job.corpus.info, job.forward_pass(model, role)
        return store.features(work, info.digest, job.split(role), cuts, corpus=info.name)

    def split(fold: Fold, role: str) -> Split:
        return Split(fold.cuts[role], features(role), pooled=fold.task.pooled, device=device)

    metas = [meta_of(model, job, fold) for fold in folds]
    places = [folder / (f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
    finished = [read_finished(place, meta) for place, meta in zip(places, metas, strict=True)]
    for role in ROLES if None in finished else ("test",):
        features(role)
    clock.lap("features")
    title = f"{job.recipe} on {model.name}"
    titles = [f"{title}, fold {fold.name}" if fold.name else title for fold in folds]
    sweeps = [
        Sweep(fold.task, model.num_layers, model.dim, device=device, title=part)
        for fold, part in zip(folds, titles, strict=True)
    ]
    trainings: list[Training] = []
    for fold, place, meta, sweep, done in zip(folds, places, metas, sweeps, finished, strict=True):
        if done is None:
            train, valid = split(fold, "train"), split(fold, "valid")
            training = _train_heads(sweep, job, train, valid, place, meta)
            head = _kept(sweep, fold, training)
            save_model(place, fold.task, model, training, head, source=source)
        else:
            training, stored = done
            _kept(sweep, fold, training).load_state_dict(stored["head"])
        discard(place)
        trainings.append(training)
    clock.lap("train", sum(training.seconds for training in trainings))
    trials = choose([training.trials for training in trainings], folds[0].task.metric, title)
    chosen = [trial["chosen"] for trial in trials].index(True)
    heads = [sweep.runs[chosen].head for sweep in sweeps]
    hypotheses: list[str] = []
    cuts: list[Cut] = []
    for fold, sweep, head in zip(folds, sweeps, heads, strict=True):
        (answers,), answered = sweep.decode([head], split(fold, "test"))
        if answers is None:
            raise TrainingError(f"{title}: the best head's logits on test are not finite")
        hypotheses += answers
        cuts += answered
    return Trained(
        hypotheses=hypotheses,
        cuts=cuts,
        trials=trials,
        layer_weights=_means([layer_weights(head) for head in heads]),
        layer_norms=_means([training.layer_norms for training in trainings]),
        with_lm=folds[0].task.answer_with_lm(
            lambda role: sweeps[0].logits(heads[0], split(folds[0], role))
        ),
        counts=dict(sum((Counter(training.counts) for training in trainings), Counter())),
    )


def _kept(sweep: Sweep, fold: Fold, training: Training) -> nn.Module:
    """Return what model.pt holds: the chosen head, with folds every head that has a score.

    Which of those is used depends on the other folds.
    """
    heads = {
        str(number): run.head
        for number, (run, trial) in enumerate(zip(sweep.runs, training.trials, strict=True))
        if trial["chosen"] or (fold.name and trial["valid"] is not None)
    }
    return nn.ModuleDict(heads) if fold.name else next(iter(heads.values()))


def _train_heads(
    sweep: Sweep, job: Job, train: Split, valid: Split, folder: Path, meta: Meta
) -> Training:
    """Train the sweep, from the checkpoint in `folder` if there is one.

    The heads of its runs then have their best weights.
    """
    counts = {cut.id: train.features.count(cut.id) for cut in train.cuts}
    train.cuts, left_out = learnable(job, sweep.task, train.cuts, counts)
    sources = {"train": train.features.identity, "valid": valid.features.identity}
    run = PassingFolder(folder, {**meta, "features": sources}, size=sweep.checkpoint_bytes)
    best = sweep.run(train, valid, run)
    for each in sweep.runs:
        if each.state is not None:
            each.best_head()
    return Training(
        meta=meta,
        trials=[{**each.trial(), "chosen": each is best} for each in sweep.runs],
        counts={"train_too_long": left_out} if left_out else {},
        seconds=sweep.seconds,
        layer_norms=layer_norms(train, normalized=job.config.head.layer_norm),
    )


def layer_norms(split: Split, *, normalized: bool) -> list[float]:
    """Return the mean L2 norm of each hidden state (L,), over frames of up to NORMED utterances.

    Empty where features are not stored: each reading would be one more pass of the upstream.

    Args:
        split: The features that the head reads: frames, or means over time for a pooled task.
        normalized: Whether the head normalizes each hidden state before it weights them.
    """
    if isinstance(split.features, LiveFeatures):
        return []
    norms = []
    for cut in split.cuts[:: -(-len(split.cuts) // NORMED)]:
        x, _ = split.features.batch([cut.id])  # (L, 1, T, D)
        x = F.layer_norm(x, x.shape[-1:]) if normalized else x
        norms.append(x[:, 0].norm(dim=-1).double())  # (L, T)
    return cast("list[float]", torch.cat(norms, dim=1).mean(1).tolist())


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column."""
    return [fmean(column) for column in zip(*rows, strict=True)]
