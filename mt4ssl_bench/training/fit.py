"""The training loop, the only one; an interrupted run continues from its checkpoint, exactly."""

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, SEED, Bounds
from mt4ssl_bench.console import progress
from mt4ssl_bench.data.batches import Place, Stream
from mt4ssl_bench.device import seed_torch
from mt4ssl_bench.errors import DivergedError, TrainingError, first_line
from mt4ssl_bench.training.averages import Averages
from mt4ssl_bench.training.distributed import ALONE, World
from mt4ssl_bench.training.divergence import Divergence, gradients
from mt4ssl_bench.training.graceful_stop import graceful_stop
from mt4ssl_bench.training.optim import (
    OptimConfig,
    ParameterGroup,
    build_optimizer,
    factor,
    set_rates,
)
from mt4ssl_bench.training.run_folder import RunFolder, State
from mt4ssl_bench.training.run_state import RunState
from mt4ssl_bench.training.track import Kind

B = TypeVar("B")
SEED_STRIDE = 10_000_019  # between the seeds of an update's batches: more than any run has updates
LOOK_EVERY = 100  # updates after which the host asks which parameter groups have diverged
LEAST_SCALE = 1e-4  # fairseq's limit: fp16 that overflows at this scale will not recover


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Length and precision of a training, and intervals in updates."""

    steps: int = 400_000  # number of updates
    seed: int = 1  # of initial weights, masks, crops and the order of batches
    accumulate: int = 1  # batches per update and process
    log_every: int = 200  # updates between lines of the log
    validate_every: int = 5_000  # updates between validations
    save_every: int = 1_000  # updates between checkpoints
    # precision of the forward pass; auto: bf16 on accelerators, none (fp32) on a CPU
    autocast: Literal["auto", "none", "bf16", "fp16"] = "auto"
    # torch.compile the parts of the encoder; null: with CUDA, if it is at least 512 wide
    compile: bool | None = None
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    track: Kind = "none"  # tensorboard or wandb: copy the log there, too

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "steps accumulate log_every save_every validate_every",
        SEED: "seed",
    }


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of one batch, as sums, so that several batches give an exact mean."""

    total: Tensor  # scalar, summed over `count`
    count: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)  # logged as mean per count
    monitors: Mapping[str, Tensor] = field(default_factory=dict)  # logged as mean per batch
    seconds: float = 0.0  # of audio
    ids: Sequence[str] = ()  # utterances, for error messages


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """The end of a run: `finished` is False after a graceful stop."""

    steps: int
    seconds: float
    finished: bool
    validations: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions of the owner that a training calls.

    Args:
        after_step: Completed updates, logged values (empty if none are) -> more values to log. May
            raise TrainingError.
        validate: Completed updates -> values to log, the same in every process.
        diverged: Completed updates, numbers of the parameter groups with non-finite gradients in
            the next one: they keep their weights from then on. Called every LOOK_EVERY updates, so
            that the host does not wait for the device in each, before a validation and before a
            checkpoint; for one process without loss scaling. Without it, such a gradient stops
            the run, at once.
        state: -> the owner's state, stored in the checkpoint beside the run's own.
        restore: Takes the stored checkpoint, before the first update.
    """

    after_step: Callable[[int, Mapping[str, float]], Mapping[str, float]] | None = None
    validate: Callable[[int], dict[str, float]] | None = None
    diverged: Callable[[int, Collection[int]], None] | None = None
    state: Callable[[], Mapping[str, object]] = dict
    restore: Callable[[State], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Processes and precision of a run.

    Args:
        world: The processes that share each update.
        no_sync: Context in which gradients are not averaged over the processes.
        scaler: Loss scaling for fp16; an update that overflows is tried again on the next batches.
    """

    world: World = ALONE
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )


class Fit(Generic[B]):
    """One training run.

    Args:
        model: Is trained and saved.
        batches: This process's share; data.batches.endless() makes a stream of epochs.
        loss: Batch, completed updates, number of the batch in the update (over all processes) ->
            StepLoss.
        groups: Parameter groups with learning rates of their own; by default one of all parameters.
        folder: For checkpoint and log; without it nothing is stored, and signals are not handled.
        title: Names the run in messages.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Stream[B],
        loss: Callable[[B, int, int], StepLoss],
        optim: OptimConfig,
        config: FitConfig,
        *,
        groups: Sequence[ParameterGroup] | None = None,
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
        shares = [self.world.size, config.accumulate]
        self.state = RunState(model, self.optimizer, self.scaler, config.steps, shares)
        self.divergence = Divergence(self.optimizer) if self.hooks.diverged else None

    def __call__(self) -> FitReport:
        """Train to config.steps, from the folder's checkpoint if there is one."""
        with self.folder.alone() if self.folder and self.world.main else nullcontext():
            if self.folder:
                self.state.resume(self.folder, self.world, self.hooks.restore)
            try:
                return self._train()
            except torch.OutOfMemoryError as error:  # of an update or a validation
                raise self._out_of_memory(error) from error

    def _train(self) -> FitReport:
        began, source = time.monotonic(), self.batches(self.state.place)
        averages = Averages()
        with (
            progress(self.title, self.config.steps, start=self.state.step) as advance,
            graceful_stop() if self.folder else nullcontext(lambda: False) as stopped,
        ):
            while not self.state.ended and not self.world.any(stopped()):
                values = self._update(source, averages)
                advance(1, "  ".join(f"{k} {v:.3g}" for k, v in list(values.items())[:3]))
                due = self.state.step % self.config.validate_every == 0 or self.state.ended
                saving = self.folder is not None and self.folder.due(
                    self.state.step, every=self.config.save_every, last=self.state.ended
                )
                if due or saving or self.state.step % LOOK_EVERY == 0:
                    self._look()
                if self.hooks.validate and due:
                    self.state.validations.append(
                        {"step": self.state.step, **self.hooks.validate(self.state.step)}
                    )
                    self._log(self.state.validations[-1])
                if saving:
                    self._save()
            if not self.state.ended:
                self._look()
                self._save()
        return FitReport(
            steps=self.state.step,
            seconds=time.monotonic() - began,
            finished=self.state.ended,
            validations=self.state.validations,
        )

    def _update(self, source: Iterator[tuple[Place, B]], averages: Averages) -> dict[str, float]:
        """Make one update; return the logged values, or nothing if this update is not logged."""
        set_rates(self.optimizer, factor(self.state.step, self.config.steps, self.optim))
        while not self._step(self._backward(source, averages)):
            pass  # fp16 overflowed: the next batches, at a smaller loss scale
        self.state.step += 1
        values = {}
        if self.state.step % self.config.log_every == 0 or self.state.step == 1 or self.state.ended:
            values = {**averages.take(self.world), "lr": self.optimizer.param_groups[0]["lr"]}
        extra = self.hooks.after_step(self.state.step, values) if self.hooks.after_step else {}
        if values:
            values.update(extra)
            place = {"step": self.state.step, "epoch": self.state.place.epoch}
            spent = {
                "seconds": self.state.seconds,
                "audio_hours": self.state.audio_seconds / 3600,
            }
            self._log({**place, **values, **spent})
        return values

    def _backward(self, source: Iterator[tuple[Place, B]], averages: Averages) -> list[StepLoss]:
        """Sum up the gradients of this process's batches; return their losses, detached."""
        parts, last = [], self.config.accumulate - 1
        for micro in range(self.config.accumulate):
            # the number of the batch in the update is the same for any number of processes, and so
            # dropout does not depend on it, nor on where a run was resumed
            number = micro * self.world.size + self.world.rank
            seed_all(self.config.seed + self.state.step + SEED_STRIDE * number)
            with averages.waiting():
                self.state.place, batch = next(source)
            with nullcontext() if micro == last else self.no_sync():
                part = self.loss(batch, self.state.step, number)
                self.scaler.scale(part.total).backward()  # type: ignore[no-untyped-call]
            averages.add(part.sums, part.monitors, part.count, part.seconds)
            parts.append(replace(part, total=part.total.detach(), sums={}, monitors={}))
        return parts

    def _step(self, parts: Sequence[StepLoss]) -> bool:
        """Turn the summed gradients into means, clip them, and update the weights.

        Returns:
            Whether the weights were updated; they are not if fp16 has overflowed.

        Raises:
            DivergedError: For a loss or gradient that is not finite otherwise.
        """
        if self.divergence:
            scale = 1 / max(sum(part.count for part in parts), 1)
            self.divergence.step(self.state.step, scale, self.optim.clip_norm)
            self.state.audio_seconds += sum(part.seconds for part in parts)
            return True
        self.scaler.unscale_(self.optimizer)
        groups = gradients(self.optimizer)
        losses, norms = _to_host(parts, groups)
        count = self._check(parts, losses, norms)
        # losses are sums over frames, and DistributedDataParallel has divided their gradients by
        # the number of processes: this makes one mean over the frames of all batches
        scale = self.world.size / max(count, 1)
        for grads, norm in zip(groups, norms, strict=True):
            if grads and (math.isfinite(norm) or self.scaler.is_enabled()):
                torch._foreach_mul_(grads, scale * self._shrink(norm * scale))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # skips the update if a gradient has overflowed,
        self.scaler.update()  # and then halves the scale
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < LEAST_SCALE:
            raise DivergedError(
                f"{self.title}: fp16 overflows at update {self.state.step}; "
                "fit.autocast=bf16 does not"
            )
        return bool(self.scaler.get_scale() >= before)

    def _shrink(self, norm: float) -> float:
        """Return the factor that clips a gradient of this norm."""
        limit = self.optim.clip_norm
        return min(limit / (norm + 1e-6), 1.0) if limit > 0 else 1.0

    def _check(
        self, parts: Sequence[StepLoss], losses: Sequence[float], norms: Sequence[float]
    ) -> float:
        """Return the count of all processes' losses, before any weight is updated.

        Raises:
            DivergedError: If a loss or gradient of any is not finite.
        """
        sound = self.scaler.is_enabled() or all(map(math.isfinite, norms))
        bad = not (sound and all(map(math.isfinite, losses)))
        own = sum(part.count for part in parts), sum(part.seconds for part in parts)
        count, seconds, bad_processes = self.world.sum(*own, bad)
        if bad_processes:
            named = [(loss, part.ids) for loss, part in zip(losses, parts, strict=True)]
            raise self._error([part for share in self.world.gather(named) for part in share])
        self.state.audio_seconds += seconds
        return count

    def _look(self) -> None:
        """Tell the owner which groups have diverged since the last look."""
        if self.divergence and self.hooks.diverged:
            for step, numbers in self.divergence.found():
                self.hooks.diverged(step, numbers)

    def _error(self, parts: Sequence[tuple[float, Sequence[str]]]) -> DivergedError:
        """Return the error for an update, from its losses and their utterances."""
        broken = [(loss, ids) for loss, ids in parts if not math.isfinite(loss)]
        reason = f"the loss is {broken[0][0]}" if broken else "the gradient is not finite"
        names = ", ".join(name for _, ids in broken or parts for name in ids)
        return DivergedError(
            f"{self.title}: {reason} at update {self.state.step}"
            f"{', utterances ' + names if names else ''}; the last checkpoint stays; a lower "
            "optim.lr or optim.clip_norm=1 may help"
        )

    def _out_of_memory(self, error: Exception) -> TrainingError:
        """Return the error for a batch that does not fit: training on less would be another run."""
        return TrainingError(
            f"{self.title}: out of device memory at update {self.state.step} "
            f"({first_line(error)}); the last checkpoint stays; half of data.batch_seconds or "
            "tune.batch_seconds with twice the accumulation, or fit.checkpointing=true, needs less"
        )

    def _log(self, values: Mapping[str, float]) -> None:
        if self.folder and self.world.main:
            self.folder.log(values)

    def _save(self) -> None:
        if self.folder and self.world.main:
            self.folder.save({**self.state.stored(), **self.hooks.state()})


def seed_all(seed: int) -> None:
    """Seed every generator that a model may draw from in its forward pass."""
    seed_torch(seed)
    # s3prl's models drop layers by the global generator
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def _to_host(
    parts: Sequence[StepLoss], groups: Sequence[Sequence[Tensor]]
) -> tuple[list[float], list[float]]:
    """Return losses and gradient norms by group (0 if it has none), waiting for the device once."""
    sizes = {n: nn.utils.get_total_norm(grads) for n, grads in enumerate(groups) if grads}
    values = torch.stack([*(part.total.float() for part in parts), *sizes.values()]).tolist()
    norms = dict(zip(sizes, values[len(parts) :], strict=True))
    return values[: len(parts)], [norms.get(number, 0.0) for number in range(len(groups))]
