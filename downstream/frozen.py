"""Training on a frozen upstream: one pass over the audio, then every head of the sweep from stored features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from mt4ssl_bench import results
from mt4ssl_bench.downstream.checks import learnable
from mt4ssl_bench.downstream.plan import Job
from mt4ssl_bench.downstream.record import Clock
from mt4ssl_bench.downstream.saved import save_model
from mt4ssl_bench.downstream.sweep import Split, Sweep, Trial
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.features import Upstream
from mt4ssl_bench.passes import Pass
from mt4ssl_bench.store import FeatureStore, LiveFeatures

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
    """Return the answers on test of the head that is best on valid, and keep it in `folder`.

    `cuts` are by role; `source` is what the upstream is loaded by.
    """
    corpus, splits = job.corpus.info, {}
    for role, members in cuts.items():
        work = pass_of(model, job, role)
        features = store.features(work, corpus.digest, job.split(role), members, corpus=corpus.name)
        splits[role] = Split(members, features, pooled=task.pooled, device=device)
    train = splits["train"]
    train.cuts, left_out = learnable(
        job, task, train.cuts, {cut.id: train.features.count(cut.id) for cut in train.cuts}
    )
    clock.lap("features")
    sweep = Sweep(task, model.num_layers, model.dim, device=device)
    chosen = sweep.run(train, splits["valid"], f"{job.recipe} on {model.name}")
    save_model(folder, task, model, chosen.head, source=source)
    clock.lap("train")
    (hypotheses,), members = sweep.decode([chosen.head], splits["test"])
    return Trained(
        hypotheses=hypotheses,
        cuts=members,
        trials=[_trial(trial, chosen) for trial in sweep.trials],
        layer_weights=cast("Any", chosen.head).sum.weights.tolist(),
        layer_norms=layer_norms(train, normalized=job.config.head.layer_norm),
        with_lm=task.answer_with_lm(lambda role: sweep.logits(chosen.head, splits[role])),
        counts={"train_too_long": left_out} if left_out else {},
    )


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
        x, _ = split.features.batch([cut.id])  # (1, T, L, D)
        x = F.layer_norm(x, x.shape[-1:]) if normalized else x
        norms.append(x[0].norm(dim=-1).double())  # (T, L)
    return cast("list[float]", torch.cat(norms).mean(0).tolist())


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
