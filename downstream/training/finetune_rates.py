"""Fine-tuning at every rate and seed, in a folder each; a finished one is not trained again."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Logits
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
from mt4ssl_bench.downstream.training.trained import Decoded, Trained
from mt4ssl_bench.encoders.kind import check_trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CheckpointError, DivergedError
from mt4ssl_bench.results.record_parts import Trial
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.training.run_folder import discard

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finetuned:
    """The trained models of a row: every fold's, at every rate and seed.

    Attributes:
        parts: The folds.
        trainings: Of each fold.
        trials: With their means over folds; those of one rate are chosen.
    """

    parts: Sequence["_Rates"]
    trainings: Sequence[Training]
    trials: Sequence[Trial]

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return sum(training.seconds for training in self.trainings)

    def decode(self) -> Trained:
        """Return each seed's hypotheses on test at the chosen rate; the score is their mean."""
        numbers = chosen(self.trials)
        decoded, cuts, weights = [], list[Cut](), list[list[float]]()
        for number in numbers:
            of_seed, cuts, own = _decode(self.parts, number, first=number == numbers[0])
            decoded.append(of_seed)
            weights += own
        counts = sum((Counter(training.counts) for training in self.trainings), Counter[str]())
        return Trained(
            decoded=decoded,
            cuts=cuts,
            trials=list(self.trials),
            layer_weights=[fmean(column) for column in zip(*weights, strict=True)],
            counts=dict(counts),
        )


def train_finetuned(
    model: Upstream, job: Job, folds: Sequence[Fold], *, folder: Path, world: World
) -> Finetuned:
    """Fine-tune an upstream at every rate and seed; the rate that is best on valid is chosen.

    The processes of a world share every update; their number divides `accumulate`.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        folds: One training, or one for each value of the task's fold label.
        folder: Keeps each fold's model of the first seed in a model.pt, and those of other seeds in
            a folder each; an interrupted call continues.
        world: The processes.

    Raises:
        UpstreamError: If the upstream cannot be fine-tuned.
        DivergedError: If no rate has a finite score of every seed in every fold.
        OutOfStepError: If this process failed alone, while others wait for it.
        KeyboardInterrupt: If a stop was requested during training; its state is saved.
    """
    check_trainable(model)
    places = [(fold, f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
    parts = [_Rates(model, job, fold, folder / name, world) for fold, name in places]
    prepared = [world.agree(part.prepare) for part in parts]
    with world.in_step():
        trainings = [part.train(*own) for part, own in zip(parts, prepared, strict=True)]
        metric, title = folds[0].task.choice, f"{job.recipe} on {model.name}"
        trials = choose([training.trials for training in trainings], metric, title)
        for part, training in zip(parts, trainings, strict=True):
            if world.main:
                part.keep(training, chosen(trials))
        world.barrier()  # the models are where they are read from
    return Finetuned(parts, trainings, trials)


@dataclass
class _Rates:
    """The trainings of one fold at every rate and seed, in a folder each if there are several."""

    model: Upstream
    job: Job
    fold: Fold
    folder: Path
    world: World

    def __post_init__(self) -> None:
        config = self.job.training
        self.meta = meta_of(self.model, self.job, self.fold)
        fold = f", fold {self.fold.name}" if self.fold.name else ""
        self.title = f"{self.job.recipe} on {self.model.name}{fold}"
        self.pairs = list(itertools.product(config.seeds, config.rates))
        names = [f"lr-{str(lr).removesuffix('.0')}-seed-{seed}" for seed, lr in self.pairs]
        self.places = [self.folder / name if len(names) > 1 else self.folder for name in names]

    def run(self, number: int, folder: Path) -> Finetuning:
        """Return one rate and seed, not trained."""
        seed, lr = self.pairs[number]
        task, model = self.fold.task, self.model
        return Finetuning(task, model, lr=lr, seed=seed, folder=folder, world=self.world)

    def prepare(self) -> tuple[list[Cut], dict[str, int]]:
        """Return what can be learned of train, and the counts of what was left out."""
        stride = self.model.stride
        return learnable(self.job, self.fold, lambda cut: int(cut.duration * audio.RATE / stride))

    def train(self, cuts: Sequence[Cut], counts: Mapping[str, int]) -> Training:
        """Train every rate and seed on `cuts`, or read the training that keep() stored."""
        self.world.barrier()  # no process looks for what another one writes meanwhile
        if finished := self.world.gather(self._finished())[0]:
            return finished
        trials, seconds = [], 0.0
        for number, place in enumerate(self.places):
            run = self.run(number, place)
            name = f"{self.title}, lr {run.lr:g}"
            try:
                train_rate(run, cuts, self.fold.cuts["valid"], name, meta=self.meta, counts=counts)
            except DivergedError as error:
                LOGGER.warning("%s", error)
                run.best = Best()
            trials.append(run.trial())
            seconds += run.watch.seconds
        return Training(meta=self.meta, trials=trials, counts=dict(counts), seconds=seconds)

    def _finished(self) -> Training | None:
        """Return what keep() stored, if the models of all seeds are there."""
        finished = read_finished(self.folder, self.meta)
        if finished is None:
            return None
        for number in chosen(finished[0].trials)[1:]:
            seed, lr = self.pairs[number]
            if read_finished(self.places[number], self.meta | {"rate": [lr, seed]}) is None:
                return None
        return finished[0]

    def keep(self, training: Training, numbers: Sequence[int]) -> None:
        """Store the models of the chosen rate, the first seed's in `folder`; remove the others."""
        first, *others = numbers
        if len(self.pairs) > 1 and read_finished(self.folder, self.meta) is None:
            for number, trial in enumerate(training.trials):
                trial["chosen"] = number in numbers
            copy_model(self.places[first], self.folder, training)
        discard(self.folder)
        kept = [self.places[number] for number in others]
        for place in self.folder.glob("lr-*"):  # kept to choose from
            discard(place)
            if place not in kept:
                (place / "model.pt").unlink(missing_ok=True)

    def load(self, number: int, folder: Path) -> Finetuning:
        """Return a model that keep() stored in `folder`."""
        best = self.run(number, folder)
        load_weights(best, read_model(folder))
        return best


def _decode(
    parts: Sequence[_Rates], number: int, *, first: bool
) -> tuple[Decoded, list[Cut], list[list[float]]]:
    """Return the hypotheses on test of one seed, the cuts, and each fold's layer weights."""
    decoded, cuts, weights = Decoded(seed=parts[0].pairs[number][0]), list[Cut](), []
    for part in parts:
        run = part.load(number, part.folder if first else part.places[number])
        logits = partial(_logits, run, part)
        cuts += decode_fold(decoded, part.fold, logits, title=part.title)
        if part is parts[0]:
            decoded.with_lm = part.fold.task.answer_with_lm(logits)
        weights.append(run.model.head.layer_weights)
    return decoded, cuts, weights


def _logits(run: Finetuning, part: _Rates, role: str) -> Iterator[Logits]:
    return run.logits(Audio(run.task, part.fold.cuts[role], role))


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
        DivergedError, TrainingError: See Finetuning.fit.
        CheckpointError: If the processes of a world do not see the same files.
        KeyboardInterrupt: If a stop was requested; the state is saved.
    """
    meta = {**(meta or {}), "rate": [run.lr, run.seed]}
    run.world.barrier()
    finished = read_finished(run.folder, meta)
    if len({*run.world.gather(finished is None)}) > 1:
        raise CheckpointError(
            f"{run.folder}: the processes find different files there; --out must be one folder, "
            "seen by all machines"
        )
    if finished:
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
    if run.world.main:
        encoder, head = run.model.encoder, run.model.head
        save_model(run.folder, run.task, run.upstream, training, head, encoder=encoder)
        discard(run.folder)


def load_weights(run: Finetuning, stored: Stored) -> None:
    """Give `run` the weights of a model.pt."""
    run.model.encoder.load_state_dict(stored["encoder"])
    run.model.head.load_state_dict(stored["head"])
