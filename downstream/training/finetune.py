"""Fine-tuning: the upstream is trained with a linear head; its folder holds the best model.

Shapes: B batch, N samples, T frames, V outputs.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench import results
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.config import rates
from mt4ssl_bench.downstream.job import Fold, Job, named
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Logits, Task, Trained
from mt4ssl_bench.downstream.training.audio_batches import Audio, AudioBatch
from mt4ssl_bench.downstream.training.best_model import Best, read_best
from mt4ssl_bench.downstream.training.choose_rate import choose
from mt4ssl_bench.downstream.training.finetuned_model import Tuned, TunedHead
from mt4ssl_bench.downstream.training.saved_model import (
    Meta,
    Stored,
    Training,
    meta_of,
    read_finished,
    read_model,
    save_model,
)
from mt4ssl_bench.encoders.kind import trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.training.fit import Fit, FitConfig, Hooks, StepLoss
from mt4ssl_bench.training.optim import OptimConfig
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes, discard

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
    best.load(stored)
    clock.lap("train", training.seconds)
    splits = {role: _audio(task, fold.cuts[role], role) for role in ("valid", "test")}
    hypotheses, cuts = best.decode(splits["test"])
    return Trained(
        hypotheses=hypotheses,
        cuts=cuts,
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
    frame_counts = {cut.id: int(cut.duration * audio.RATE / model.stride) for cut in cuts["train"]}
    train, left_out = learnable(job, task, cuts["train"], frame_counts)
    counts = {"train_too_long": left_out} if left_out else {}
    trials: list[results.Trial] = []
    seconds, pairs = 0.0, list(itertools.product(task.config.seeds, rates(task.config)))
    places = [folder / f"lr-{lr:g}-seed-{seed}" for seed, lr in pairs]
    places = places if len(pairs) > 1 else [folder]
    for (seed, lr), place in zip(pairs, places, strict=True):
        run = Finetuning(task, model, lr=lr, seed=seed, folder=place, device=device)
        try:
            title = f"{job.recipe} on {model.name}, lr {lr:g}"
            run.run(train, cuts["valid"], title, meta=meta, counts=counts)
        except TrainingError as error:
            LOGGER.warning("%s", error)
            run.best = Best()
        trials.append(run.trial())
        seconds += run.seconds
    trials = choose([trials], task.metric, f"{job.recipe} on {model.name}")
    chosen = [trial["chosen"] for trial in trials].index(True)
    if len(pairs) > 1:
        seed, lr = pairs[chosen]
        best = Finetuning(task, model, lr=lr, seed=seed, folder=folder, device=device)
        best.load(read_model(places[chosen]))
        best.save(Training(meta=meta, trials=trials, counts=counts, seconds=seconds))


def _audio(task: Task, cuts: Sequence[Cut], role: str) -> Audio:
    """Return the audio of a role as the task reads it."""
    crops = task.config.crops_of(role)
    return Audio(cuts, task.config, crop=crops.seconds if crops else 0.0, effects=task.effects)


class Finetuning:
    """An upstream that is trained for one task at one rate and seed, in `folder`."""

    def __init__(
        self, task: Task, upstream: Upstream, *, lr: float, folder: Path, device: str, seed: int = 0
    ) -> None:
        self.task, self.config, self.lr, self.seed = task, task.config, lr, seed
        self.folder, self.device = folder, torch.device(device)
        encoder = trainable(upstream, self.config.tune)
        torch.manual_seed(seed)
        head = TunedHead(
            upstream.num_layers, upstream.dim, task.outputs, self.config.tune, pooled=task.pooled
        )
        self.upstream, self.model = upstream, Tuned(encoder, head).to(device)
        self.targets: dict[str, Tensor] = {}
        self.best = Best()
        self._began, self._earlier = time.monotonic(), 0.0  # seconds of interrupted calls

    @property
    def seconds(self) -> float:
        """Seconds of training, interrupted calls included."""
        return self._earlier + time.monotonic() - self._began

    def run(
        self,
        train: Sequence[Cut],
        valid: Sequence[Cut],
        title: str,
        *,
        meta: Meta | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Train, then hold the model that was best on valid; an interrupted call continues.

        Args:
            train: Cuts of the training split.
            valid: Cuts of the validation split.
            title: Names the run in messages.
            meta: What the training depends on, apart from rate and seed.
            counts: Of what was left out of `train`, for model.pt.

        Raises:
            TrainingError: If the loss, a gradient or the logits on valid are not finite.
            KeyboardInterrupt: If a stop was requested; the state is saved.
        """
        self._began = time.monotonic()
        meta = {**(meta or {}), "rate": [self.lr, self.seed]}
        if finished := read_finished(self.folder, meta):
            training, stored = finished
            (trial,) = training.trials
            assert trial["valid"] is not None
            self.best, self._earlier = Best(trial["valid"], trial["steps"]), training.seconds
            self.load(stored)
            return
        self._fit(train, valid, title, meta)
        if not self.best.weights:
            name = self.task.metric.name
            raise TrainingError(f"{title}: no finite {name} on valid; try lower rates")
        self.model.load_state_dict(self.best.weights)
        self.best = Best(self.best.value, self.best.step)
        own: results.Trial = {**self.trial(), "chosen": True}
        self.save(
            Training(meta=meta, trials=[own], counts=dict(counts or {}), seconds=self.seconds)
        )
        discard(self.folder)

    def trial(self) -> results.Trial:
        """Return what a record holds of this training."""
        valid = self.best.value if math.isfinite(self.best.value) else None
        steps = self.best.step
        return {"lr": self.lr, "seed": self.seed, "valid": valid, "steps": steps, "chosen": False}

    def _fit(self, train: Sequence[Cut], valid: Sequence[Cut], title: str, meta: Meta) -> None:
        config, tune = self.config, self.config.tune
        data, checked = _audio(self.task, train, "train"), _audio(self.task, valid, "valid")
        self.targets = {cut.id: self.task.target(cut) for cut in train}
        report = Fit(
            self.model.train(),
            data.batches(shuffle=True).stream(),
            self.loss,
            # wav2vec 2.0's: Adam with a tri-stage rate
            OptimConfig(
                lr=self.lr,
                betas=(0.9, 0.98),
                eps=1e-8,
                weight_decay=0.0,
                phases=tune.phases,
                final_scale=tune.final_scale,
                clip_norm=config.clip_norm,
            ),
            FitConfig(
                steps=config.steps,
                seed=self.seed,
                accumulate=config.accumulate,
                log_every=max(config.validate_every // 4, 1),
                validate_every=config.validate_every,
            ),
            groups=[
                {"params": [p for p in self.model.encoder.parameters() if p.requires_grad]},
                {"params": list(self.model.head.parameters()), "lr": self.lr * tune.head_lr},
            ],
            folder=PassingFolder(self.folder, meta, size=checkpoint_bytes(self.model.parameters())),
            hooks=Hooks(
                validate=lambda step: self._validate(checked, step),
                state=lambda: {"best": self.best.stored(), "seconds": self.seconds},
                restore=self._restore,
            ),
            title=title,
        )()
        if not report.finished:
            raise KeyboardInterrupt

    def load(self, stored: Stored) -> None:
        """Load the weights of a model.pt."""
        self.model.encoder.load_state_dict(stored["encoder"])
        self.model.head.load_state_dict(stored["head"])

    def save(self, training: Training) -> None:
        """Write the present model into model.pt."""
        encoder, head = self.model.encoder, self.model.head
        save_model(self.folder, self.task, self.upstream, training, head, encoder=encoder)

    def _validate(self, checked: Audio, step: int) -> dict[str, float]:
        metric = self.task.metric
        hypotheses, cuts = self.decode(checked)
        value = self.task.measure(cuts, hypotheses)
        # as in fairseq, the later of two equal ones is kept
        if math.isfinite(value) and not metric.better(self.best.value, value):
            self.best = Best(value, step, Best.copy(self.model.state_dict()))
        return {metric.name: value}

    def _restore(self, stored: Mapping[str, object]) -> None:
        self.best = read_best(stored, self.task.metric, self.folder)
        self._earlier = cast("float", stored.get("seconds", 0.0))

    def loss(self, batch: AudioBatch, step: int, micro: int) -> StepLoss:
        """Return the loss of a batch, summed over utterances.

        Masks come from a generator that depends only on seed, update and batch.
        """
        generator = np.random.default_rng((self.seed, step, micro))
        frozen = step < self.config.tune.freeze_updates
        with self._autocast():
            logits, lengths = self.model(batch.waveforms, batch.lengths, generator, frozen=frozen)
        total = self.task.summed_loss(logits, lengths, [self.targets[cut.id] for cut in batch.cuts])
        seconds = float(batch.lengths.sum()) / audio.RATE
        ids = [cut.id for cut in batch.cuts]
        return StepLoss(total=total, count=len(ids), sums={"loss": total}, seconds=seconds, ids=ids)

    def decode(self, data: Audio) -> tuple[list[str], list[Cut]]:
        """Return the hypotheses of a split and its cuts, in one order."""
        hypotheses: list[str] = []
        decoded: list[Cut] = []
        for cuts, logits, lengths in self.logits(data):
            hypotheses += self.task.decode(logits, lengths)
            decoded += cuts
        return hypotheses, decoded

    @torch.no_grad()
    def logits(self, data: Audio) -> Iterator[Logits]:
        """Yield the logits of a split, without masks and dropout."""
        self.model.eval()
        for batch in data.batches(shuffle=False)():
            with self._autocast():
                logits, lengths = self.model(batch.waveforms, batch.lengths)
            if not logits.isfinite().all():
                names = named([cut.id for cut in batch.cuts])
                raise TrainingError(f"lr {self.lr:g}: logits are not finite, utterances {names}")
            yield batch.cuts, logits, lengths
        self.model.train()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.device.type != "cpu"
        )
