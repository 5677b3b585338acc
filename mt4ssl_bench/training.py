"""fit(): the only training loop; repeating an interrupted run continues it from its last checkpoint, exactly."""

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.batching import Place, Stream
from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.optim import OptimConfig, build_optimizer, factor, set_rates

LOGGER = logging.getLogger(__name__)
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long to train and how often to look."""

    steps: int = 400_000
    seed: int = 1
    accumulate: int = 1  # batches per update; the gradient is a mean over all of their frames
    log_every: int = 200
    validate_every: int = 5_000
    save_every: int = 1_000
    autocast: Literal["auto", "none", "bf16"] = "auto"  # auto: bf16 on accelerators, none on the CPU


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of one batch, as sums, so that several batches make one exact mean."""

    total: Tensor  # scalar, summed over `count`
    count: int
    sums: Mapping[str, Tensor] = field(default_factory=dict)  # logged as mean per count
    monitors: Mapping[str, Tensor] = field(default_factory=dict)  # logged as they are
    seconds: float = 0.0  # audio


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
        batches: what it is trained on; batching.endless() makes a stream of epochs.
        loss: batch, completed updates, batch number within the update -> StepLoss.
        optim, config: see their classes.
        groups: parameter groups with rates of their own; default: all trainable parameters in one.
        run: folder for checkpoint.pt and log.jsonl; None keeps nothing.
        meta: stored in the checkpoint; a run folder whose meta differs is refused.
        after_step: completed updates, log values (only where logged) -> extra log values; may raise TrainingError.
        validate: completed updates -> values for the log.
        title: what the progress bar says.
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
        after_step: Callable[[int, Mapping[str, float]], Mapping[str, float]] | None = None,
        validate: Callable[[int], dict[str, float]] | None = None,
        title: str = "train",
    ) -> None:
        self.model, self.batches, self.loss, self.optim, self.config = model, batches, loss, optim, config
        self.run, self.meta = run, dict(meta or {})
        self.after_step, self.validate, self.title = after_step, validate, title
        groups = groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self.optimizer = build_optimizer(groups, optim)
        self.step, self.place = 0, Place()
        self.validations: list[dict[str, float]] = []

    def __call__(self) -> FitReport:
        """Train to config.steps, from the run folder's checkpoint if there is one."""
        self._resume()
        began, source = time.monotonic(), self.batches(self.place)
        window = _Window()
        with (
            progress(self.title, self.config.steps, start=self.step) as advance,
            _polite_stop(self.run) as stopped,
        ):
            while self.step < self.config.steps and not stopped():
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

    def _update(self, source: Iterator[tuple[Place, B]], window: "_Window") -> dict[str, float]:
        """Make one update; returns log values on the steps that log, else nothing."""
        torch.manual_seed(self.config.seed + self.step)  # dropout depends on the update alone: resuming is exact
        set_rates(self.optimizer, factor(self.step, self.config.steps, self.optim))
        count = 0
        for micro in range(self.config.accumulate):
            self.place, batch = next(source)
            part = self.loss(batch, self.step, micro)
            if not math.isfinite(part.total.item()):
                raise TrainingError(
                    f"{self.title}: the loss is {part.total.item()} at update {self.step}; the last checkpoint stays; "
                    "a lower optim.lr or optim.clip_norm=1 may help"
                )
            part.total.backward()  # type: ignore[no-untyped-call]
            count += part.count
            window.add(part)
        self._scale_and_clip(1.0 / max(count, 1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        values = {}
        if self.step % self.config.log_every == 0 or self.step == 1 or self._ended():
            values = {**window.take(), "lr": self.optimizer.param_groups[0]["lr"]}
        extra = self.after_step(self.step, values) if self.after_step else {}
        if values:
            values.update(extra)
            self._log({"step": self.step, "epoch": self.place.epoch, **values})
        return values

    def _scale_and_clip(self, scale: float) -> None:
        for group in self.optimizer.param_groups:
            grads = [p.grad for p in group["params"] if p.grad is not None]
            if not grads:
                continue
            if scale != 1.0:
                torch._foreach_mul_(grads, scale)
            if self.optim.clip_norm > 0:
                nn.utils.clip_grad_norm_(group["params"], self.optim.clip_norm)

    def _log(self, values: Mapping[str, float]) -> None:
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            with (self.run / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: _short(v) for k, v in values.items()}) + "\n")

    def _save(self) -> None:
        if self.run is None:
            return
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        place = {
            "step": self.step,
            "epoch": self.place.epoch,
            "position": self.place.position,
            "validations": self.validations,
        }
        checkpoint.save({**self.meta, **state, **place}, self.run / "checkpoint.pt")

    def _resume(self) -> None:
        if self.run is None:
            return
        if not (self.run / "checkpoint.pt").exists():
            (self.run / "log.jsonl").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
            return
        stored = checkpoint.load(self.run / "checkpoint.pt")
        for key, value in self.meta.items():
            if stored.get(key) != value:
                changed = _difference({key: stored.get(key)}, {key: value}).removeprefix("config.")
                raise CheckpointError(
                    f"{self.run}: holds a run with other settings ({changed}); choose another --out, or repeat its own"
                )
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.step, self.place = stored["step"], Place(stored["epoch"], stored["position"])
        self.validations = list(stored["validations"])
        _trim_log(self.run / "log.jsonl", self.step)
        LOGGER.info("%s: continuing from update %d of %d", self.run, self.step, self.config.steps)


class _Window:
    """Sums since the last log line."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.began, self.count, self.seconds = time.monotonic(), 0, 0.0
        self.sums: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}

    def add(self, part: StepLoss) -> None:
        for name, value in part.sums.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self.monitors = dict(part.monitors)
        self.count += part.count
        self.seconds += part.seconds

    def take(self) -> dict[str, float]:
        values = {name: value.item() / max(self.count, 1) for name, value in self.sums.items()}
        values.update({name: float(value) for name, value in self.monitors.items()})
        values["audio_seconds_per_second"] = self.seconds / max(time.monotonic() - self.began, 1e-9)
        self._clear()
        return values


@contextmanager
def _polite_stop(run: Path | None) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM lets the update end and be saved; the second one interrupts at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal's signature
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        LOGGER.info("stopping after this update; once more to stop at once")

    try:
        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)} if run else {}
    except ValueError:  # not the main thread: signals are somebody else's there
        previous = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines of updates that will be made again, and a line that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def _short(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _difference(old: object, new: object, prefix: str = "") -> str:
    """Name the first key at which two nested containers differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=str):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    return f"{prefix or 'value'}: {old} there, {new} here"
