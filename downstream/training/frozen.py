"""Training on a frozen upstream: one pass over the audio, then every head of the sweep from stored
features.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from mt4ssl_bench import results
from mt4ssl_bench.downstream.plan import ROLES, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.downstream.training.saved_model import (
    Training,
    meta_of,
    read_finished,
    save_model,
)
from mt4ssl_bench.downstream.training.sweep import Split, Sweep, Trial
from mt4ssl_bench.downstream.write_record import Clock
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.store import FeatureStore, LiveFeatures
from mt4ssl_bench.training.run_folder import PassingFolder, discard

NORMED = 50  # utterances whose norms are measured


def train_frozen(
    model: Upstream,
    job: Job,
    task: Task,
    cuts: Mapping[str, list[Any]],
    *,
    folder: Path,
    source: str,
    store: FeatureStore,
    device: str,
    clock: Clock,
) -> Trained:
    """Return the answers on test of the head that is best on valid, which `folder` keeps in
    model.pt.

    An interrupted call continues from its checkpoint, or from model.pt once the heads are trained.
    `cuts` are by role; `source` is the name that the upstream is loaded by.

    Raises:
        KeyboardInterrupt: If a stop was asked for while heads were trained; their state is saved.
    """
    corpus = job.corpus.info

    @cache
    def split(role: str) -> Split:
        work, members = pass_of(model, job, role), cuts[role]
        features = store.features(work, corpus.digest, job.split(role), members, corpus=corpus.name)
        return Split(members, features, pooled=task.pooled, device=device)

    sweep, meta = Sweep(task, model.num_layers, model.dim, device=device), meta_of(model, job, task)
    finished = read_finished(folder, meta)
    for role in ROLES if finished is None else ("test",):
        split(role)
    clock.lap("features")
    if finished is None:
        training, head = _train_heads(sweep, model, job, split, folder=folder, meta=meta)
        save_model(folder, task, model, training, head, source=source)
    else:
        training, stored = finished
        head = task.head(model.num_layers, model.dim).to(device)
        head.load_state_dict(stored["head"])
    discard(folder)
    clock.lap("train", training.seconds)
    (hypotheses,), members = sweep.decode([head], split("test"))
    if hypotheses is None:
        raise TrainingError(
            f"{job.recipe} on {model.name}: the best head's logits on test are not finite"
        )
    return Trained(
        hypotheses=hypotheses,
        cuts=members,
        trials=training.trials,
        layer_weights=cast("Any", head).sum.weights.tolist(),
        layer_norms=training.layer_norms,
        with_lm=task.answer_with_lm(lambda role: sweep.logits(head, split(role))),
        counts=dict(training.counts),
    )


def _train_heads(
    sweep: Sweep,
    model: Upstream,
    job: Job,
    split: Callable[[str], Split],
    *,
    folder: Path,
    meta: Mapping[str, Any],
) -> tuple[Training, nn.Module]:
    """Train the sweep, from the checkpoint in `folder` if there is one.

    Returns how, and the best head.
    """
    train = split("train")
    frames = {cut.id: train.features.count(cut.id) for cut in train.cuts}
    train.cuts, left_out = learnable(job, sweep.task, train.cuts, frames)
    sources = {role: split(role).features.identity for role in ("train", "valid")}
    run = PassingFolder(folder, {**meta, "features": sources}, size=sweep.checkpoint_bytes)
    chosen = sweep.run(train, split("valid"), f"{job.recipe} on {model.name}", run)
    training = Training(
        meta=meta,
        trials=[_trial(trial, chosen) for trial in sweep.trials],
        counts={"train_too_long": left_out} if left_out else {},
        seconds=sweep.seconds,
        layer_norms=layer_norms(train, normalized=job.config.head.layer_norm),
    )
    return training, chosen.head


def layer_norms(split: Split, *, normalized: bool) -> list[float]:
    """Return the mean L2 norm of each hidden state (L,), over frames of up to NORMED utterances.

    Empty where features are not stored: each reading would be one more pass of the upstream.

    Args:
        split: the features that the head reads: frames, or means over time for a pooled task.
        normalized: whether the head normalizes each hidden state before it weights them.
    """
    if isinstance(split.features, LiveFeatures):
        return []
    cuts = split.cuts[:: -(-len(split.cuts) // NORMED)]
    norms = []
    for cut in cuts:
        x, _ = split.features.batch([cut.id])  # (L, 1, T, D)
        x = F.layer_norm(x, x.shape[-1:]) if normalized else x
        norms.append(x[:, 0].norm(dim=-1).double())  # (L, T)
    return cast("list[float]", torch.cat(norms, dim=1).mean(1).tolist())


def pass_of(model: Upstream, job: Job, role: str) -> Pass:
    """Return the pass over the audio of a split that the job needs."""
    return Pass(model, job.config.crops_of(role))


def _trial(trial: Trial, chosen: Trial) -> results.Trial:
    valid = None if trial.state is None else trial.best
    return {
        "lr": trial.lr,
        "seed": trial.seed,
        "valid": valid,
        "steps": trial.step,
        "chosen": trial is chosen,
    }
