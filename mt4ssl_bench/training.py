"""fit(): the only training loop; repeating an interrupted run continues it from its last checkpoint, exactly."""

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint, runlog
from mt4ssl_bench.batching import Place, Stream
from mt4ssl_bench.console import progress
from mt4ssl_bench.distributed import ALONE, World
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.files import alone
from mt4ssl_bench.optim import OptimConfig, build_optimizer, factor, set_rates
from mt4ssl_bench.stopping import polite_stop

LOGGER = logging.getLogger(__name__)
B = TypeVar("B")
SEED_STRIDE = (
    10_000_019  # between the seeds of an update's batches: far more than updates of any run
)
LEAST_SCALE = 1e-4  # fairseq's limit: fp16 that overflows at this scale will not recover


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long to train and how often to look."""

    steps: int = 400_000
    seed: int = 1
    accumulate: int = (
        1  # batches per update and process; the gradient is a mean over all of their frames
    )
    log_every: int = 200
    validate_every: int = 5_000
    save_every: int = 1_000
    autocast: Literal["auto", "none", "bf16", "fp16"] = (
        "auto"  # auto: bf16 on accelerators, none on the CPU
    )
    compile: bool = False  # torch.compile the encoder's layers, student and teacher
    checkpointing: bool = (
        False  # compute activations again in the backward pass: less memory, a third more time
    )


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
    """What fit() did: `finished` is False after a polite stop, `best` and `last` hold what validate returned."""

    steps: int
    seconds: float
    finished: bool
    validations: list[dict[str, float]]


class Fit(Generic[B]):
    """One training run.

    Args:
        model: what is trained and saved.
        batches: what it is trained on, this process's share; batching.endless() makes a stream of epochs.
        loss: batch, completed updates, batch number within the update (over all processes) -> StepLoss.
        optim, config: see their classes.
        groups: parameter groups with rates of their own; default: all trainable parameters in one, whose gradient
            must be finite.
        run: folder for checkpoint.pt and log.jsonl; None keeps nothing.
        meta: stored in the checkpoint; a run folder whose meta differs is refused, but for the dotted keys in `free`.
            Its "config" is kept as config.json too.
        after_step: completed updates, log values (only where logged) -> extra log values; may raise TrainingError.
        validate: completed updates -> values for the log, the same in every process.
        title: what the progress bar says.
        world: the processes that share each update; `no_sync` holds their gradients apart until its last batch.
        scaler: scales the loss, for fp16; an update whose gradient overflows is tried again on the next batches.
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
        run: Path | None = None,
        meta: Mapping[str, Any] | None = None,
        free: Collection[str] = (),
        after_step: Callable[[int, Mapping[str, float]], Mapping[str, float]] | None = None,
        validate: Callable[[int], dict[str, float]] | None = None,
        title: str = "train",
        world: World = ALONE,
        no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model, self.batches, self.loss, self.optim, self.config = (
            model,
            batches,
            loss,
            optim,
            config,
        )
        self.run, self.meta, self.free, self.world, self.no_sync = (
            run,
            dict(meta or {}),
            free,
            world,
            no_sync,
        )
        self.after_step, self.validate, self.title = after_step, validate, title
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.guarded = groups is None
        groups = groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self.optimizer = build_optimizer(groups, optim)
        self.step, self.place = 0, Place()
        self.validations: list[dict[str, float]] = []

    def __call__(self) -> FitReport:
        """Train to config.steps, from the run folder's checkpoint if there is one; nobody else trains there then."""
        with alone(self.run) if self.run and self.world.main else nullcontext():
            self._resume()
            return self._train()

    def _train(self) -> FitReport:
        began, source = time.monotonic(), self.batches(self.place)
        window = runlog.Window()
        with (
            progress(self.title, self.config.steps, start=self.step) as advance,
            polite_stop() if self.run else nullcontext(lambda: False) as stopped,
        ):
            while self.step < self.config.steps and not self.world.any(stopped()):
                values = self._update(source, window)
                advance(1, "  ".join(f"{k} {v:.3g}" for k, v in list(values.items())[:3]))
                if self.validate and (self.step % self.config.validate_every == 0 or self._ended()):
                    self._log(found := {"step": self.step, **self.validate(self.step)})
                    self.validations.append(found)
                if self.step % self.config.save_every == 0 or self._ended():
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

    def _update(self, source: Iterator[tuple[Place, B]], window: runlog.Window) -> dict[str, float]:
        """Make one update; returns log values on the steps that log, else nothing."""
        set_rates(self.optimizer, factor(self.step, self.config.steps, self.optim))
        while not self._move(self._backward(source, window)):
            pass
        self.step += 1
        values = {}
        if self.step % self.config.log_every == 0 or self.step == 1 or self._ended():
            values = {**window.take(self.world), "lr": self.optimizer.param_groups[0]["lr"]}
        extra = self.after_step(self.step, values) if self.after_step else {}
        if values:
            values.update(extra)
            self._log({"step": self.step, "epoch": self.place.epoch, **values})
        return values

    def _backward(self, source: Iterator[tuple[Place, B]], window: runlog.Window) -> list[StepLoss]:
        """Add up the gradients of this process's batches of one update; returns their losses without graphs."""
        parts, last = [], self.config.accumulate - 1
        for micro in range(self.config.accumulate):
            number = micro * self.world.size + self.world.rank
            # dropout depends on the update and the batch alone: resuming is exact, and any number of processes agree
            torch.manual_seed(self.config.seed + self.step + SEED_STRIDE * number)
            with window.waiting():
                self.place, batch = next(source)
            with nullcontext() if micro == last else self.no_sync():
                part = self.loss(batch, self.step, number)
                self.scaler.scale(part.total).backward()  # type: ignore[no-untyped-call]
            window.add(part.sums, part.monitors, part.count, part.seconds)
            parts.append(StepLoss(total=part.total.detach(), count=part.count, ids=part.ids))
        return parts

    def _move(self, parts: Sequence[StepLoss]) -> bool:
        """Scale the gradients to a mean per count over all processes, clip them, and move the parameters.

        Returns False, with nothing moved, where fp16 has overflowed. Raises TrainingError, in every process, for a
        loss or gradient that is not finite otherwise.
        """
        self.scaler.unscale_(self.optimizer)
        groups = [
            [p.grad for p in group["params"] if p.grad is not None]
            for group in self.optimizer.param_groups
        ]
        sizes = [nn.utils.get_total_norm(grads) for grads in groups if grads]
        found = torch.stack(
            [*(part.total.float() for part in parts), *sizes]
        ).tolist()  # the update's one wait
        losses, norms = found[: len(parts)], found[len(parts) :]
        good = all(
            map(math.isfinite, losses if self.scaler.is_enabled() or not self.guarded else found)
        )
        count, bad = self.world.sum(sum(part.count for part in parts), not good)
        if bad:
            self._refuse(parts, losses)
        scale = self.world.size / max(count, 1)  # the processes' gradients come as their mean
        for grads, norm in zip([grads for grads in groups if grads], norms, strict=True):
            limit = (
                self.optim.clip_norm / (norm * scale + 1e-6) if self.optim.clip_norm > 0 else 1.0
            )
            torch._foreach_mul_(grads, scale * min(limit, 1.0))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < LEAST_SCALE:
            raise TrainingError(
                f"{self.title}: fp16 overflows at update {self.step}; fit.autocast=bf16 does not"
            )
        return bool(self.scaler.get_scale() >= before)

    def _refuse(self, parts: Sequence[StepLoss], losses: Sequence[float]) -> None:
        mine = [(loss, part.ids) for loss, part in zip(losses, parts, strict=True)]
        every = [found for share in self.world.gather(mine) for found in share]
        broken = [found for found in every if not math.isfinite(found[0])]
        what = f"the loss is {broken[0][0]}" if broken else "the gradient is not finite"
        names = ", ".join(name for _, ids in broken or every for name in ids)
        raise TrainingError(
            f"{self.title}: {what} at update {self.step}{', utterances ' + names if names else ''}; "
            "the last checkpoint stays; a lower optim.lr or optim.clip_norm=1 may help"
        )

    def _log(self, values: Mapping[str, float]) -> None:
        if self.run is not None and self.world.main:
            runlog.write(self.run / "log.jsonl", values)

    def _save(self) -> None:
        if self.run is None or not self.world.main:
            return
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        place = {
            "step": self.step,
            "epoch": self.place.epoch,
            "position": self.place.position,
            "validations": self.validations,
            "scaler": self.scaler.state_dict(),
            "shares": self._shares(),
        }
        checkpoint.save({**self.meta, **state, **place}, self.run / "checkpoint.pt")

    def _shares(self) -> list[int]:
        return [self.world.size, self.config.accumulate]

    def _resume(self) -> None:
        if self.run is None:
            return
        if (self.run / "checkpoint.pt").exists():
            self._load(checkpoint.load(self.run / "checkpoint.pt"), self.run)
        elif self.world.main:
            (self.run / "log.jsonl").unlink(
                missing_ok=True
            )  # of a run that ended before its first checkpoint
        if self.world.main and "config" in self.meta:
            runlog.replace(
                self.run / "config.json", json.dumps(self.meta["config"], indent=1) + "\n"
            )
        steps = self.world.gather(self.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"{self.run}: the processes find updates {steps} there; --out must be one folder, seen by all machines"
            )

    def _load(self, stored: Mapping[str, Any], run: Path) -> None:
        for key, value in self.meta.items():
            changed = _difference(stored.get(key), value, key, self.free)
            if changed:
                raise CheckpointError(
                    f"{run}: holds a run with other settings ({changed.removeprefix('config.')}); "
                    "choose another --out, or repeat its own"
                )
        missing = {"optimizer", "scaler", "step", "epoch", "position", "shares"} - stored.keys()
        if missing:
            raise CheckpointError(
                f"{run}: holds a model but not the state of its training ({', '.join(sorted(missing))}); "
                f"choose another --out, with init={run} to start from its weights"
            )
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        self.step, self.place = stored["step"], Place(stored["epoch"], stored["position"])
        self.validations = list(stored["validations"])
        if self.world.main:
            runlog.trim(run / "log.jsonl", self.step)
        LOGGER.info("%s: continuing from update %d of %d", run, self.step, self.config.steps)
        if stored["shares"] != self._shares():
            LOGGER.info(
                "processes x fit.accumulate: %d x %d before update %d, %d x %d from here on",
                *stored["shares"], self.step, *self._shares(),
            )  # fmt: skip


def _difference(old: object, new: object, name: str, free: Collection[str]) -> str | None:
    """Name the first key at which two nested containers differ, but for the free ones."""
    if name in free or old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        found = (
            _difference(old.get(k), new.get(k), f"{name}.{k}", free)
            for k in sorted({*old, *new}, key=str)
        )
        return next(filter(None, found), None)
    return f"{name}: {old} there, {new} here"
