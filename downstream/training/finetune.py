"""Fine-tuning: the upstream is trained with a linear head.

A folder holds the run, and the best model on valid.

Shapes: B batch, N samples, T frames, V outputs.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench import results
from mt4ssl_bench.data import audio
from mt4ssl_bench.downstream.config import TaskConfig, rates
from mt4ssl_bench.downstream.plan import Job, named
from mt4ssl_bench.downstream.reference_checks import learnable
from mt4ssl_bench.downstream.task import Answers, Task, Trained
from mt4ssl_bench.downstream.training.audio_batches import Audio, Batch
from mt4ssl_bench.downstream.training.finetuned_model import Tuned, TunedHead
from mt4ssl_bench.downstream.training.saved_model import (
    Training,
    meta_of,
    read_finished,
    read_model,
    save_model,
)
from mt4ssl_bench.downstream.write_record import Clock
from mt4ssl_bench.encoders.kinds import trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.results.metrics import METRICS
from mt4ssl_bench.training.fit import Fit, FitConfig, FitReport, Hooks, StepLoss
from mt4ssl_bench.training.optim import OptimConfig
from mt4ssl_bench.training.run_folder import PassingFolder, checkpoint_bytes, discard

LOGGER = logging.getLogger(__name__)


def train_finetuned(
    model: Upstream,
    job: Job,
    task: Task,
    cuts: Mapping[str, list[Any]],
    *,
    folder: Path,
    device: str,
    clock: Clock,
) -> Trained:
    """Return the answers on test of the model that is best on valid, which `folder` keeps in
    model.pt.

    An interrupted call continues. `cuts` are by role.

    Raises:
        KeyboardInterrupt: If a stop was asked for in training; its state is saved.
    """
    meta = meta_of(model, job, task)
    finished = read_finished(folder, meta)
    if finished is None:
        _train_rates(model, job, task, cuts, folder=folder, device=device, meta=meta)
        finished = read_finished(folder, meta)
    assert finished is not None
    training, stored = finished
    for place in (folder, *folder.glob("lr-*")):  # what was only kept to choose from
        discard(place)
        if place != folder:
            (place / "model.pt").unlink(missing_ok=True)
    chosen = next(trial for trial in training.trials if trial["chosen"])
    best = Finetuning(
        task, model, lr=chosen["lr"], seed=chosen["seed"], folder=folder, device=device
    )
    best.take(stored)
    clock.lap("train", training.seconds)
    splits = {
        role: Audio(cuts[role], task.config, crop=_crop(task.config, role))
        for role in ("valid", "test")
    }
    hypotheses, members = best.decode(splits["test"])
    return Trained(
        hypotheses=hypotheses,
        cuts=members,
        trials=training.trials,
        layer_weights=best.model.head.layer_weights,
        with_lm=task.answer_with_lm(lambda role: best.logits(splits[role])),
        counts=dict(training.counts),
    )


def _train_rates(
    model: Upstream,
    job: Job,
    task: Task,
    cuts: Mapping[str, list[Any]],
    *,
    folder: Path,
    device: str,
    meta: Mapping[str, Any],
) -> None:
    """Train at every rate and seed, each in a folder of its own if there are several.

    The best becomes model.pt.
    """
    frames = {cut.id: int(cut.duration * audio.RATE / model.stride) for cut in cuts["train"]}
    train, left_out = learnable(job, task, cuts["train"], frames)
    counts = {"train_too_long": left_out} if left_out else {}
    best: Finetuning | None = None
    trials: list[results.Trial] = []
    seconds = 0.0
    tried = list(itertools.product(task.config.seeds, rates(task.config)))
    for seed, lr in tried:
        place = folder / f"lr-{lr:g}-seed-{seed}" if len(tried) > 1 else folder
        run = Finetuning(task, model, lr=lr, seed=seed, folder=place, device=device)
        trials.append({"lr": lr, "seed": seed, "valid": None, "steps": 0, "chosen": False})
        try:
            title = f"{job.recipe} on {model.name}, lr {lr:g}"
            run.run(train, cuts["valid"], title, meta=meta, counts=counts)
        except TrainingError as error:
            LOGGER.warning("%s", error)
            continue
        finally:
            seconds += run.seconds
        trials[-1]["valid"], trials[-1]["steps"] = run.best, run.best_step
        if best is None or worse(task, best.best, run.best):
            best = run
    if best is None:
        raise TrainingError(
            f"{job.recipe}: no learning rate of {list(rates(task.config))} went well; try lower "
            "ones"
        )
    for trial in trials:
        trial["chosen"] = (trial["lr"], trial["seed"]) == (best.lr, best.seed)
    if best.folder != folder:
        best.folder = folder
        best.save(Training(meta=meta, trials=trials, counts=counts, seconds=seconds))


def _crop(config: TaskConfig, role: str) -> float:
    """Return how many seconds of each utterance of a split are read, 0 for all."""
    crops = config.crops_of(role)
    return crops.seconds if crops else 0.0


def worse(task: Task, value: float, other: float) -> bool:
    """Return whether one value of the task's main metric is worse than another."""
    return value < other if METRICS[task.metric].higher_is_better else value > other


class Finetuning:
    """One upstream trained for one task at one rate and seed, in `folder`.

    Run() continues an interrupted run.
    """

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
        self.best, self.best_step = math.nan, 0
        self.weights: dict[str, Tensor] = {}  # of the best model on valid
        self._began, self._earlier = time.monotonic(), 0.0  # seconds of interrupted calls

    @property
    def seconds(self) -> float:
        """Return the seconds of training, interrupted calls included."""
        return self._earlier + time.monotonic() - self._began

    def run(
        self,
        train: Sequence[Any],
        valid: Sequence[Any],
        title: str,
        *,
        meta: Mapping[str, Any] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Train, then hold the model that was best on valid; an interrupted call continues.

        Args:
            train, valid: cuts.
            title: names the run in messages.
            meta: what the training depends on, apart from rate and seed.
            counts: what was left out of `train`, for model.pt.

        Raises:
            TrainingError: If the loss, a gradient or the logits on valid are not finite.
            KeyboardInterrupt: If a stop was asked for; the state is saved.
        """
        config, self._began = self.config, time.monotonic()
        meta = {**(meta or {}), "rate": [self.lr, self.seed]}
        if finished := read_finished(self.folder, meta):
            self._take_trial(*finished)
            return
        data = Audio(train, config, crop=_crop(config, "train"))
        checked = Audio(valid, config, crop=_crop(config, "valid"))
        self.targets = {cut.id: self.task.target(cut) for cut in train}
        if not self._fit(data, checked, title, meta).finished:
            raise KeyboardInterrupt
        if not self.weights:
            raise TrainingError(f"{title}: no finite {self.task.metric} on valid; try lower rates")
        self.model.load_state_dict(self.weights)
        self.weights = {}
        trial: results.Trial = {
            "lr": self.lr,
            "seed": self.seed,
            "valid": self.best,
            "steps": self.best_step,
            "chosen": True,
        }
        self.save(Training(meta=meta, trials=[trial], counts=counts or {}, seconds=self.seconds))
        discard(self.folder)

    def _fit(self, data: Audio, checked: Audio, title: str, meta: Mapping[str, Any]) -> FitReport:
        config = self.config
        return Fit(
            self.model.train(),
            data.batches(shuffle=True).stream(),
            self.loss,
            self._optim(),
            FitConfig(
                steps=config.steps,
                seed=self.seed,
                accumulate=config.accumulate,
                log_every=max(config.validate_every // 4, 1),
                validate_every=config.validate_every,
            ),
            groups=[
                {"params": [p for p in self.model.encoder.parameters() if p.requires_grad]},
                {"params": list(self.model.head.parameters()), "lr": self.lr * config.tune.head_lr},
            ],
            folder=PassingFolder(self.folder, meta, size=checkpoint_bytes(self.model.parameters())),
            hooks=Hooks(
                validate=lambda step: self._validate(checked, step),
                state=self._state,
                restore=self._restore,
            ),
            title=title,
        )()

    def take(self, stored: Mapping[str, Any]) -> None:
        """Load the weights of a model.pt."""
        self.model.encoder.load_state_dict(stored["encoder"])
        self.model.head.load_state_dict(stored["head"])

    def save(self, training: Training) -> None:
        """Write the model as it is now into model.pt."""
        encoder, head = self.model.encoder, self.model.head
        save_model(self.folder, self.task, self.upstream, training, head, encoder=encoder)

    def _take_trial(self, training: Training, stored: Mapping[str, Any]) -> None:
        (trial,) = training.trials
        assert trial["valid"] is not None
        self.best, self.best_step, self._earlier = trial["valid"], trial["steps"], training.seconds
        self.take(stored)

    def _validate(self, checked: Audio, step: int) -> dict[str, float]:
        metric = self.task.metric
        hypotheses, cuts = self.decode(checked)
        value = self.task.measure(self.task.references(cuts), hypotheses)
        # as fairseq does, the later of two equal ones is kept
        if math.isfinite(value) and not worse(self.task, value, self.best):
            self.best, self.best_step = value, step
            self.weights = {k: v.to("cpu", copy=True) for k, v in self.model.state_dict().items()}
        return {metric: value}

    def _state(self) -> dict[str, Any]:
        best = {"value": self.best, "step": self.best_step, "weights": self.weights}
        return {"best": best, "seconds": self.seconds}

    def _restore(self, stored: Mapping[str, Any]) -> None:
        if "best" not in stored:  # the first revisions wrote the best model into model.pt instead
            self._restore_old(stored)
            return
        best = stored["best"]
        self.best, self.best_step, self._earlier = best["value"], best["step"], stored["seconds"]
        self.weights = {name: tensor.clone() for name, tensor in best["weights"].items()}

    def _restore_old(self, stored: Mapping[str, Any]) -> None:
        for row in stored["validations"]:
            if not worse(self.task, row[self.task.metric], self.best):
                self.best, self.best_step = row[self.task.metric], int(row["step"])
        model = read_model(self.folder)
        self.weights = {
            f"{part}.{name}": tensor.clone()
            for part in ("encoder", "head")
            for name, tensor in model[part].items()
        }

    def _optim(self) -> OptimConfig:
        """Return wav2vec 2.0's: Adam with a tri-stage rate."""
        return OptimConfig(
            lr=self.lr,
            betas=(0.9, 0.98),
            eps=1e-8,
            weight_decay=0.0,
            phases=self.config.tune.phases,
            final_scale=self.config.tune.final_scale,
            clip_norm=self.config.clip_norm,
        )

    def loss(self, batch: Batch, step: int, micro: int) -> StepLoss:
        """Return one batch's loss, summed over utterances.

        Masks come from a generator that belongs to this update.
        """
        generator = np.random.default_rng((self.seed, step, micro))
        frozen = step < self.config.tune.freeze_updates
        with self._autocast():
            logits, lengths = self.model(batch.waveforms, batch.lengths, generator, frozen=frozen)
        total = self.task.summed_loss(logits, lengths, [self.targets[cut.id] for cut in batch.cuts])
        seconds = float(batch.lengths.sum()) / audio.RATE
        ids = [cut.id for cut in batch.cuts]
        return StepLoss(total=total, count=len(ids), sums={"loss": total}, seconds=seconds, ids=ids)

    def decode(self, data: Audio) -> tuple[list[str], list[Any]]:
        """Return a split's hypotheses and cuts, in one order."""
        hypotheses: list[str] = []
        members: list[Any] = []
        for cuts, logits, lengths in self.logits(data):
            hypotheses += self.task.decode(logits, lengths)
            members += cuts
        return hypotheses, members

    @torch.no_grad()
    def logits(self, data: Audio) -> Iterator[Answers]:
        """Yield the answers to a split, without masks and dropout."""
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
