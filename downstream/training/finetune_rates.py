"""Fine-tuning at every rate and seed, in a folder each; a finished one is not trained again."""

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Trained
from mt4ssl_bench.downstream.training.audio_batches import Audio
from mt4ssl_bench.downstream.training.best_model import Best
from mt4ssl_bench.downstream.training.choose_rate import choose
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
    model: Upstream, job: Job, folds: Sequence[Fold], *, folder: Path, device: str, clock: Clock
) -> Trained:
    """Return the hypotheses on test of the rate and seed that are best on valid (mean over folds).

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        folds: One training, or one for each value of the task's fold label.
        folder: Keeps each fold's model in a model.pt; an interrupted call continues.
        device: Torch device.
        clock: Times the stages.

    Raises:
        TrainingError: If no rate has a finite score in every fold.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """
    places = [(fold, f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
    parts = [_Rates(model, job, fold, folder / name, device) for fold, name in places]
    trainings = [part.train() for part in parts]
    metric, title = folds[0].task.metric, f"{job.recipe} on {model.name}"
    trials = choose([training.trials for training in trainings], metric, title)
    chosen = [trial["chosen"] for trial in trials].index(True)
    for part, training in zip(parts, trainings, strict=True):
        part.keep(training, chosen)
    clock.lap("train", sum(training.seconds for training in trainings))
    models = [part.load(chosen) for part in parts]
    tests = [best.decode(part.split("test")) for best, part in zip(models, parts, strict=True)]
    weights = [best.model.head.layer_weights for best in models]
    return Trained(
        hypotheses=[text for texts, _ in tests for text in texts],
        cuts=[cut for _, cuts in tests for cut in cuts],
        trials=trials,
        layer_weights=[fmean(column) for column in zip(*weights, strict=True)],
        with_lm=folds[0].task.answer_with_lm(lambda role: models[0].logits(parts[0].split(role))),
        counts=dict(sum((Counter(training.counts) for training in trainings), Counter())),
    )


@dataclass
class _Rates:
    """The trainings of one fold at every rate and seed, in a folder each if there are several."""

    model: Upstream
    job: Job
    fold: Fold
    folder: Path
    device: str

    def __post_init__(self) -> None:
        config = self.job.training
        self.meta = meta_of(self.model, self.job, self.fold)
        self.pairs = list(itertools.product(config.seeds, config.rates))
        names = [f"lr-{lr:g}-seed-{seed}" for seed, lr in self.pairs]
        self.places = [self.folder / name if len(names) > 1 else self.folder for name in names]

    def split(self, role: str) -> Audio:
        """Return the audio of a role."""
        return Audio(self.fold.task, self.fold.cuts[role], role)

    def run(self, number: int, folder: Path) -> Finetuning:
        """Return one rate and seed, not trained."""
        seed, lr = self.pairs[number]
        task, model = self.fold.task, self.model
        return Finetuning(task, model, lr=lr, seed=seed, folder=folder, device=self.device)

    def train(self) -> Training:
        """Train every rate and seed, or read the training that keep() stored."""
        if finished := read_finished(self.folder, self.meta):
            return finished[0]
        cuts, job, stride = self.fold.cuts, self.job, self.model.stride
        frames = {cut.id: int(cut.duration * audio.RATE / stride) for cut in cuts["train"]}
        train, left_out = learnable(job, self.fold, frames)
        counts = {"train_too_long": left_out} if left_out else {}
        title = f"{job.recipe} on {self.model.name}{self.fold.name and f', fold {self.fold.name}'}"
        trials, seconds = [], 0.0
        for number, place in enumerate(self.places):
            run = self.run(number, place)
            name = f"{title}, lr {run.lr:g}"
            try:
                train_rate(run, train, cuts["valid"], name, meta=self.meta, counts=counts)
            except TrainingError as error:
                LOGGER.warning("%s", error)
                run.best = Best()
            trials.append(run.trial())
            seconds += run.watch.seconds
        return Training(meta=self.meta, trials=trials, counts=counts, seconds=seconds)

    def keep(self, training: Training, chosen: int) -> None:
        """Store the model of the chosen rate and seed in `folder`, and remove the others."""
        if len(self.pairs) > 1 and read_finished(self.folder, self.meta) is None:
            for number, trial in enumerate(training.trials):
                trial["chosen"] = number == chosen
            copy_model(self.places[chosen], self.folder, training)
        discard(self.folder)
        for place in self.folder.glob("lr-*"):  # kept to choose from
            discard(place)
            (place / "model.pt").unlink(missing_ok=True)

    def load(self, chosen: int) -> Finetuning:
        """Return the model that keep() stored."""
        finished = read_finished(self.folder, self.meta)
        assert finished is not None
        best = self.run(chosen, self.folder)
        load_weights(best, finished[1])
        return best


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
