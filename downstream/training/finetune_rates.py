"""Fine-tuning at every rate and seed, in a folder each; a finished one is not trained again."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Decoded, Logits, Trained
from mt4ssl_bench.downstream.training.audio_batches import Audio
from mt4ssl_bench.downstream.training.best_model import Best
from mt4ssl_bench.downstream.training.choose_rate import choose, chosen
from mt4ssl_bench.downstream.training.decode_test import decode_fold
from mt4ssl_bench.downstream.training.finetune import Finetuning
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
    Stored,
    Training,
    copy_model,
    meta_of,
    read_finished,
    read_model,
    save_model,
)
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.results.record_parts import Trial
from mt4ssl_bench.training.run_folder import discard

LOGGER = logging.getLogger(__name__)


def train_finetuned(
    model: Upstream, job: Job, fold: Fold, *, folder: Path, device: str, clock: Clock
) -> Trained:
    """Return each seed's hypotheses on test at the rate that is best on valid, over seeds.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        fold: The task and its cuts.
        folder: Keeps the first seed's model in model.pt, and those of other seeds in a folder each;
            an interrupted call continues.
        device: Torch device.
        clock: Times the stages.

    Raises:
        TrainingError: If training failed at every rate, with one of the seeds.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """
    task, meta = fold.task, meta_of(model, job, fold)
    if not _finished(folder, meta):
        _train_rates(model, job, fold, meta, folder=folder, device=device)
    finished = read_finished(folder, meta)
    assert finished is not None
    training, _ = finished
    places = _places(folder, training.trials)
    discard(folder)
    for place in folder.glob("lr-*"):  # kept to choose from
        discard(place)
        if place not in places.values():
            (place / "model.pt").unlink(missing_ok=True)
    clock.lap("train", training.seconds)
    splits = {role: Audio(task, fold.cuts[role], role) for role in ("valid", "test")}
    decoded, cuts, weights, title = [], list[Cut](), [], f"{job.recipe} on {model.name}"
    for number, place in places.items():
        lr, seed = training.trials[number]["lr"], training.trials[number]["seed"]
        run = Finetuning(task, model, lr=lr, seed=seed, folder=place, device=device)
        load_weights(run, read_model(place))
        found, cuts = _decode(run, fold, splits, title)
        decoded.append(found)
        weights.append(run.model.head.layer_weights)
    return Trained(
        decoded=decoded,
        cuts=cuts,
        trials=training.trials,
        layer_weights=[fmean(layer) for layer in zip(*weights, strict=True)],
        counts=dict(training.counts),
    )


def _decode(
    run: Finetuning, fold: Fold, splits: Mapping[str, Audio], title: str
) -> tuple[Decoded, list[Cut]]:
    def logits(role: str) -> Iterator[Logits]:
        return run.logits(splits[role])

    decoded = Decoded(seed=run.seed)
    cuts = decode_fold(decoded, fold, logits, title=title)
    decoded.with_lm = fold.task.answer_with_lm(logits)
    return decoded, cuts


def _places(folder: Path, trials: Sequence[Trial]) -> dict[int, Path]:
    """Return the folders of the chosen trials' models, the first of which is `folder`."""
    first, *others = chosen(trials)
    named = {n: _place(folder, trials[n]["lr"], trials[n]["seed"]) for n in others}
    return {first: folder} | named


def _place(folder: Path, lr: float, seed: int) -> Path:
    return folder / f"lr-{lr:g}-seed-{seed}"


def _finished(folder: Path, meta: Meta) -> bool:
    """Return whether the models of all seeds are there."""
    finished = read_finished(folder, meta)
    if finished is None:
        return False
    trials = finished[0].trials
    _, *others = _places(folder, trials).items()
    return all(
        read_finished(place, meta | {"rate": [trials[number]["lr"], trials[number]["seed"]]})
        for number, place in others
    )


def _train_rates(
    model: Upstream, job: Job, fold: Fold, meta: Meta, *, folder: Path, device: str
) -> None:
    """Train at every rate and seed, in a folder each if there are several; save the best one."""
    task, cuts = fold.task, fold.cuts
    frame_counts = {cut.id: int(cut.duration * audio.RATE / model.stride) for cut in cuts["train"]}
    train, left_out = learnable(job, fold, frame_counts)
    counts = {"train_too_long": left_out} if left_out else {}
    trials, seconds, title = [], 0.0, f"{job.recipe} on {model.name}"
    pairs = list(itertools.product(task.config.seeds, task.config.rates))
    for seed, lr in pairs:
        place = _place(folder, lr, seed) if len(pairs) > 1 else folder
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
        training = Training(meta=meta, trials=trials, counts=counts, seconds=seconds)
        first = trials[chosen(trials)[0]]
        copy_model(_place(folder, first["lr"], first["seed"]), folder, training)


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
