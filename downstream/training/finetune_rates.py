"""Fine-tuning at every rate and seed, in a folder each; a finished one is not trained again."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Trained
from mt4ssl_bench.downstream.training.audio_batches import Audio
from mt4ssl_bench.downstream.training.best_model import Best
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.decode_test import Decoded
from mt4ssl_bench.downstream.training.finetune import Finetuning
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
    Stored,
    Training,
    copy_model,
    meta_of,
    read_finished,
    save_model,
)
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.training.run_folder import discard

LOGGER = logging.getLogger(__name__)


def train_finetuned(
    model: Upstream, job: Job, fold: Fold, *, folder: Path, device: str, clock: Clock
) -> Trained:
    """Return the hypotheses on test of the model that is best on valid.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        fold: The task and its cuts.
        folder: Keeps that model in model.pt; an interrupted call continues.
        device: Torch device.
        clock: Times the stages.

    Raises:
        TrainingError: If training failed at every rate.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """
    task, meta = fold.task, meta_of(model, job, fold)
    if read_finished(folder, meta) is None:
        _train_rates(model, job, fold, meta, folder=folder, device=device)
    finished = read_finished(folder, meta)
    assert finished is not None
    training, stored = finished
    discard(folder)
    for place in folder.glob("lr-*"):  # kept to choose from
        discard(place)
        (place / "model.pt").unlink(missing_ok=True)
    chosen = next(trial for trial in training.trials if trial["chosen"])
    best = Finetuning(
        task, model, lr=chosen["lr"], seed=chosen["seed"], folder=folder, device=device
    )
    load_weights(best, stored)
    clock.lap("train", training.seconds)
    splits = {role: Audio(task, fold.cuts[role], role) for role in ("valid", "test")}
    decoded = Decoded()
    decoded.add(fold, lambda role: best.logits(splits[role]), title=f"{job.recipe} on {model.name}")
    return Trained(
        hypotheses=decoded.hypotheses,
        cuts=decoded.cuts,
        tuned=decoded.tuned,
        variants=decoded.variants,
        trials=training.trials,
        layer_weights=best.model.head.layer_weights,
        with_lm=task.answer_with_lm(lambda role: best.logits(splits[role])),
        counts=dict(training.counts),
    )


def _train_rates(
    model: Upstream, job: Job, fold: Fold, meta: Meta, *, folder: Path, device: str
) -> None:
    """Train at every rate and seed, in a folder each if there are several; save the best one."""
    task, cuts = fold.task, fold.cuts
    train, counts = learnable(job, fold, lambda cut: int(cut.duration * audio.RATE / model.stride))
    trials, seconds, title = [], 0.0, f"{job.recipe} on {model.name}"
    pairs = list(itertools.product(task.config.seeds, task.config.rates))
    places = [folder / f"lr-{lr:g}-seed-{seed}" for seed, lr in pairs]
    places = places if len(pairs) > 1 else [folder]
    for (seed, lr), place in zip(pairs, places, strict=True):
        run = Finetuning(task, model, lr=lr, seed=seed, folder=place, device=device)
        try:
            train_rate(run, train, cuts["valid"], f"{title}, lr {lr:g}", meta=meta, counts=counts)
        except TrainingError as error:
            LOGGER.warning("%s", error)
            run.best = Best()
        trials.append(run.trial())
        seconds += run.watch.seconds
    trials = choose([trials], task.choice, title)
    if len(pairs) > 1:
        chosen = [trial["chosen"] for trial in trials].index(True)
        training = Training(meta=meta, trials=trials, counts=counts, seconds=seconds)
        copy_model(places[chosen], folder, training)


def train_rate(
    run: Finetuning,
    train: Sequence[Cut],
    valid: Sequence[Cut],
    title: str,
    *,
    meta: Meta | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Give `run` its best model: train it and write it into its folder, or read it from there.

    Args:
        run: One rate and seed.
        train: Cuts of the training split.
        valid: Cuts of the validation split.
        title: Names the run in messages.
        meta: What the training depends on, apart from rate and seed.
        counts: Of what was left out of `train`, for model.pt.

    Raises:
        TrainingError: See Finetuning.fit.
        KeyboardInterrupt: If a stop was requested; the state is saved.
    """
    meta = {**(meta or {}), "rate": [run.lr, run.seed]}
    if finished := read_finished(run.folder, meta):
        training, stored = finished
        (trial,) = training.trials
        assert trial["valid"] is not None
        run.best, run.watch.earlier = Best(trial["valid"], trial["steps"]), training.seconds
        load_weights(run, stored)
        return
    run.fit(train, valid, title, meta)
    training = Training(
        meta=meta,
        trials=[{**run.trial(), "chosen": True}],
        counts=dict(counts or {}),
        seconds=run.watch.seconds,
    )
    encoder, head = run.model.encoder, run.model.head
    save_model(run.folder, run.task, run.upstream, training, head, encoder=encoder)
    discard(run.folder)


def load_weights(run: Finetuning, stored: Stored) -> None:
    """Give `run` the weights of a model.pt."""
    run.model.encoder.load_state_dict(stored["encoder"])
    run.model.head.load_state_dict(stored["head"])
