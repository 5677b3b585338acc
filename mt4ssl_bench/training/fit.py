"""The training loop, the only one.

An interrupted run continues from its last checkpoint, exactly.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.console import progress
from mt4ssl_bench.data.batches import Place, Stream
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.training.averages import Window
from mt4ssl_bench.training.distributed import ALONE, World
from mt4ssl_bench.training.graceful_stop import polite_stop
from mt4ssl_bench.training.optim import OptimConfig, build_optimizer, factor, set_rates
from mt4ssl_bench.training.run_folder import RunFolder

LOGGER = logging.getLogger(__name__)
B = TypeVar("B")
# between the seeds of an update's batches: far more than updates of any run
SEED_STRIDE = 10_000_019
LEAST_SCALE = 1e-4  # fairseq's limit: fp16 that overflows at this scale will not recover


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long to train and how often to look."""

    steps: int = 400_000
    seed: int = 1
    # batches per update and process; the gradient is a mean over all of their frames
    accumulate: int = 1
    log_every: int = 200
    validate_every: int = 5_000
    save_every: int = 1_000
    autocast: Literal["auto", "none", "bf16", "fp16"] = (
        "auto"  # auto: bf16 on accelerators, none on the CPU
    )
    compile: bool = False  # torch.compile the encoder's layers, student and teacher
    # compute activations again in the backward pass: less memory, a third more time
    checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of one batch, as sums, so that several batches make one exact mean."""

    total: Tensor  # scalar, summed over `count`
    count: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)  # logged as mean per count
    monitors: Mapping[str, Tensor] = field(default_factory=dict)  # logged as mean per batch
    seconds: float = 0.0  # audio
    ids: Sequence[str] = ()  # utterances, named when something is not finite


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The end of a run: `finished` is False after a polite stop; `validations` hold what validate
    returned.
    """

    steps: int
    seconds: float
    finished: bool
    validations: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Where a training calls its owner.

    Args:
        after_step: completed updates, log values (only where logged) -> extra log values; may
            raise TrainingError.
        validate: completed updates -> values for the log, the same in every process.
        diverged: number of completed updates, numbers of the parameter groups whose gradient is
            not finite: these stay as they are in this update. Without it, such a gradient stops
            the run before any weights move.
        state: what the owner needs to continue, stored in the checkpoint beside the run's own.
        restore: takes a stored checkpoint back, before the first update.
    """

    after_step: Callable[[int, Mapping[str, float]], Mapping[str, float]] | None = None
    validate: Callable[[int], dict[str, float]] | None = None
    diverged: Callable[[int, Collection[int]], None] | None = None
    state: Callable[[], Mapping[str, Any]] = dict
    restore: Callable[[Mapping[str, Any]], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Processes and precision of a run.

    Args:
        world: the processes that share each update.
        no_sync: holds their gradients apart until an update's last batch.
        scaler: scales the loss, for fp16; an update whose gradient overflows is tried again on
            the next batches.
    """

    world: World = ALONE
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )


class Fit(Generic[B]):
    """One training run.

    Args:
        model: what is trained and saved. batches: what it is trained on, this process's share;
        batching.endless() makes a stream of epochs. loss: batch, completed updates, batch number
        within the update (over all processes) -> StepLoss. optim, config: see their classes.
        groups: parameter groups with rates of their own; default: all trainable parameters in one.
        folder: for checkpoint and log; None keeps nothing, and takes no polite stop. hooks,
        scaling: see their classes. title: what the progress bar says.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Stream[B],
        loss: Callable[[B, int, int], StepLoss],
        optim: OptimConfig,
        config: FitConfig,
        *,
        groups: list[dict[str, Any]] | None = None,
        folder: RunFolder | None = None,
        hooks: Hooks | None = None,
        scaling: Scaling | None = None,
        title: str = "train",
    ) -> None:
        self.model, self.batches, self.loss = model, batches, loss
        self.optim, self.config, self.folder, self.title = optim, config, folder, title
        self.hooks, scaling = hooks or Hooks(), scaling or Scaling()
        self.world, self.no_sync, self.scaler = scaling.world, scaling.no_sync, scaling.scaler
        groups = groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self.optimizer = build_optimizer(groups, optim)
        self.step, self.place = 0, Place()
        self.validations: list[dict[str, float]] = []

    def __call__(self) -> FitReport:
        """Train to config.steps, from the folder's checkpoint if there is one.

        Nobody else trains there then.
        """
        with self.folder.alone() if self.folder and self.world.main else nullcontext():
            self._resume()
            return self._train()

    def _train(self) -> FitReport:
        began, source = time.monotonic(), self.batches(self.place)
        window = Window()
        with (
            progress(self.title, self.config.steps, start=self.step) as advance,
            polite_stop() if self.folder else nullcontext(lambda: False) as stopped,
        ):
            while self.step < self.config.steps and not self.world.any(stopped()):
                values = self._update(source, window)
                advance(1, "  ".join(f"{k} {v:.3g}" for k, v in list(values.items())[:3]))
                due = self.step % self.config.validate_every == 0 or self._ended()
                if self.hooks.validate and due:
                    found = {"step": self.step, **self.hooks.validate(self.step)}
                    self.validations.append(found)
                    self._log(found)
                if self.folder and self.folder.due(
                    self.step, every=self.config.save_every, last=self._ended()
                ):
                    self._save()
            if not self._ended():
                self._save()
        return FitReport(
            steps=self.step,
            seconds=time.monotonic() - began,
            finished=self._ended(),
            validations=self.validations,
        )

    def _ended(self) -> bool:
        return self.step >= self.config.steps

    def _update(self, source: Iterator[tuple[Place, B]], window: Window) -> dict[str, float]:
        """Make one update; returns log values on the steps that log, else nothing."""
        set_rates(self.optimizer, factor(self.step, self.config.steps, self.optim))
        while not self._move(self._backward(source, window)):
            pass
        self.step += 1
        values = {}
        if self.step % self.config.log_every == 0 or self.step == 1 or self._ended():
            values = {**window.take(self.world), "lr": self.optimizer.param_groups[0]["lr"]}
        extra = self.hooks.after_step(self.step, values) if self.hooks.after_step else {}
        if values:
            values.update(extra)
            self._log({"step": self.step, "epoch": self.place.epoch, **values})
        return values

    def _backward(self, source: Iterator[tuple[Place, B]], window: Window) -> list[StepLoss]:
        """Add up the gradients of this process's batches of one update.

        Returns their losses without graphs.
        """
        parts, last = [], self.config.accumulate - 1
        for micro in range(self.config.accumulate):
            number = micro * self.world.size + self.world.rank
            # dropout depends on the update and the batch alone: resuming is exact, and any number
            # of processes agree
            seed_all(self.config.seed + self.step + SEED_STRIDE * number)
            with window.waiting():
                self.place, batch = next(source)
            with nullcontext() if micro == last else self.no_sync():
                part = self.loss(batch, self.step, number)
                self.scaler.scale(part.total).backward()  # type: ignore[no-untyped-call]
            window.add(part.sums, part.monitors, part.count, part.seconds)
            parts.append(StepLoss(total=part.total.detach(), count=part.count, ids=part.ids))
        return parts

    def _move(self, parts: Sequence[StepLoss]) -> bool:
        """Scale the gradients to a mean per count over all processes, clip them, and move the
        parameters.

        Returns False, with nothing moved, where fp16 has overflowed. Raises TrainingError, in every
        process, for a loss or gradient that is not finite otherwise, unless the owner takes groups
        that diverge.
        """
        self.scaler.unscale_(self.optimizer)
        groups = [
            [p.grad for p in group["params"] if p.grad is not None]
            for group in self.optimizer.param_groups
        ]
        losses, norms = _to_host(parts, groups)
        count = self._check(parts, losses, norms)
        scale = self.world.size / max(count, 1)  # the processes' gradients come as their mean
        for grads, norm in zip(groups, norms, strict=True):
            if grads and (math.isfinite(norm) or self.scaler.is_enabled()):
                torch._foreach_mul_(grads, scale * self._shrink(norm * scale))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < LEAST_SCALE:
            raise TrainingError(
                f"{self.title}: fp16 overflows at update {self.step}; fit.autocast=bf16 does not"
            )
        return bool(self.scaler.get_scale() >= before)

    def _shrink(self, norm: float) -> float:
        """Return the factor that clips a gradient of this norm."""
        limit = self.optim.clip_norm
        return min(limit / (norm + 1e-6), 1.0) if limit > 0 else 1.0

    def _check(
        self, parts: Sequence[StepLoss], losses: Sequence[float], norms: Sequence[float]
    ) -> float:
        """Return the count of all processes' losses.

        Raises TrainingError in all of them for one that is not finite.
        """
        broken = [number for number, norm in enumerate(norms) if not math.isfinite(norm)]
        if self.scaler.is_enabled():  # it skips an update whose gradient overflows
            broken = []
        elif broken and self.hooks.diverged:
            self.hooks.diverged(self.step, broken)
            for number in broken:
                for parameter in self.optimizer.param_groups[number]["params"]:
                    parameter.grad = None
            broken = []
        bad = bool(broken) or not all(map(math.isfinite, losses))
        count, bad_somewhere = self.world.sum(sum(part.count for part in parts), bad)
        if bad_somewhere:
            self._refuse(parts, losses)
        return count

    def _refuse(self, parts: Sequence[StepLoss], losses: Sequence[float]) -> None:
        mine = [(loss, part.ids) for loss, part in zip(losses, parts, strict=True)]
        every = [found for share in self.world.gather(mine) for found in share]
        broken = [found for found in every if not math.isfinite(found[0])]
        what = f"the loss is {broken[0][0]}" if broken else "the gradient is not finite"
        names = ", ".join(name for _, ids in broken or every for name in ids)
        raise TrainingError(
            f"{self.title}: {what} at update "
            f"{self.step}{', utterances ' + names if names else ''}; the last checkpoint stays; a "
            "lower optim.lr or optim.clip_norm=1 may help"
        )

    def _log(self, values: Mapping[str, float]) -> None:
        if self.folder is not None and self.world.main:
            self.folder.log(values)

    def _save(self) -> None:
        if self.folder is None or not self.world.main:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.place.epoch,
            "position": self.place.position,
            "validations": self.validations,
            "scaler": self.scaler.state_dict(),
            "shares": self._shares(),
        }
        self.folder.save({**state, **self.hooks.state()})

    def _shares(self) -> list[int]:
        return [self.world.size, self.config.accumulate]

    def _resume(self) -> None:
        if self.folder is None:
            return
        with self.folder.continuing():
            stored = self.folder.load()
            if stored is not None:
                self._load(stored, self.folder)
        if self.world.main:
            self.folder.begin(self.step)
        steps = self.world.gather(self.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"{self.folder.path}: the processes find updates {steps} there; "
                "--out must be one folder, seen by all machines"
            )

    def _load(self, stored: Mapping[str, Any], folder: RunFolder) -> None:
        """Take a stored state.

        Raises CheckpointError, with nothing taken, if it is of another model.
        """
        changed = _misfit(stored["model"], self.model) or _resized(stored, self.optimizer)
        if changed:
            raise folder.error(f"holds a run of another model ({changed})", "choose another --out")
        if self.hooks.restore:
            self.hooks.restore(stored)
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        self.step, self.place = stored["step"], Place(stored["epoch"], stored["position"])
        self.validations = list(stored["validations"])
        LOGGER.info(
            "%s: continuing from update %d of %d", folder.path, self.step, self.config.steps
        )
        if stored["shares"] != self._shares():
            LOGGER.info(
                "processes x fit.accumulate: %d x %d before update %d, %d x %d from here on",
                *stored["shares"],
                self.step,
                *self._shares(),
            )


def seed_all(seed: int) -> None:
    """Seed the generators that a model may draw from in its forward pass, other people's models
    included.
    """
    torch.manual_seed(seed)
    # s3prl's models drop layers by the global generator
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def _to_host(
    parts: Sequence[StepLoss], groups: Sequence[Sequence[Tensor]]
) -> tuple[list[float], list[float]]:
    """Return the losses, and each group's gradient norm (0 where it has none): the update's one
    wait.
    """
    sizes = {n: nn.utils.get_total_norm(grads) for n, grads in enumerate(groups) if grads}
    values = torch.stack([*(part.total.float() for part in parts), *sizes.values()]).tolist()
    norms = dict(zip(sizes, values[len(parts) :], strict=True))
    return values[: len(parts)], [norms.get(number, 0.0) for number in range(len(groups))]


def _misfit(stored: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """Name the first weight that a stored model and this one do not share."""
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in stored.items()}
    for name in sorted({*ours, *theirs}):
        there, here = theirs.get(name, "none"), ours.get(name, "none")
        if there != here:
            return f"{name}: {there} there, {here} here"
    return None


def _resized(stored: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    ours, theirs = (
        [len(group["params"]) for group in state["param_groups"]]
        for state in (optimizer.state_dict(), stored["optimizer"])
    )
    return None if ours == theirs else f"parameters by group: {theirs} there, {ours} here"
