"""Run folders: the checkpoint and log of a training, from which it continues."""

import json
import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.files import locked
from mt4ssl_bench.results.run_log import replace, trim, write
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.track import Kind, Tracker, open_tracker

LOGGER = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
SHARE = 0.01  # of a training's time at most goes into writing passing checkpoints
SPEED = 1e8  # bytes per second: the guess of a disk's speed until a write has been measured
RETRY = 600.0  # seconds after a failed write until the next one


class State(TypedDict):
    """A training's state, beside what its owner stores with it (Hooks.state)."""

    model: dict[str, Tensor]
    optimizer: dict[str, object]
    scaler: dict[str, object]
    step: int
    epoch: int
    position: int
    validations: list[dict[str, float]]
    shares: list[int]  # processes, batches per update and process
    seconds: NotRequired[float]  # of training; earlier revisions stored neither of these
    audio_seconds: NotRequired[float]  # that all processes have trained on


class RunFolder:
    """The folder of one training; an error in reading or writing it stops the run.

    Args:
        path: Gets checkpoint.pt and log.jsonl, and config.json if `meta` has a "config".
        meta: Stored in the checkpoint; a folder whose meta differs is refused.
        free: Dotted keys of `meta` that may differ.
        track: Where the log is copied to; see training.track.
    """

    def __init__(
        self,
        path: Path,
        meta: Mapping[str, Json] | None = None,
        free: Collection[str] = (),
        *,
        track: Kind = "none",
    ) -> None:
        self.path, self.meta, self.free, self.track = path, dict(meta or {}), free, track
        self._tracker: Tracker | None = None
        self.file = path / CHECKPOINT

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which no other process trains in this folder."""
        return self._alone()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self.path):
            try:
                yield
            finally:
                if self._tracker:
                    self._tracker.close()

    def due(self, step: int, *, every: int, last: bool) -> bool:
        """Return whether to save after update `step`, which may be the `last` one."""
        return last or step % every == 0

    def save(self, state: Mapping[str, object]) -> None:
        """Write the checkpoint atomically.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        checkpoint.save({**self.meta, **state}, self.file)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
        """Return the stored state of a training of `model`, or None if there is none.

        Raises:
            CheckpointError: If it is damaged, of other settings or another model, or a model
                without the state of its training.
        """
        if not self.file.exists():
            return None
        stored = checkpoint.load(self.file)
        if changed := difference(self.meta, stored, self.free):
            raise self.error(
                f"holds a run with other settings ({changed})",
                "choose another --out, or repeat its own settings and labels",
            )
        if missing := State.__required_keys__ - stored.keys():
            raise self.error(
                f"holds a model but not the state of its training ({', '.join(sorted(missing))})",
                f"choose another --out, with init={self.path} to start from its weights",
            )
        state = cast("State", stored)
        if misfit := _misfit(state, model, optimizer):
            raise self.error(f"holds a run of another model ({misfit})", "choose another --out")
        return state

    def error(self, reason: str, advice: str) -> CheckpointError:
        """Return the error for a folder that cannot be continued."""
        return CheckpointError(f"{self.path}: {reason}; {advice}")

    def continuing(self) -> AbstractContextManager[None]:
        """Return a context for loading: here, a CheckpointError in it stops the run."""
        return nullcontext()

    def log(self, values: Mapping[str, float]) -> None:
        """Append a line to log.jsonl, and to its copy.

        Raises:
            TrainingError: If the file cannot be written.
        """
        write(self.path / "log.jsonl", values)
        if self._tracker:
            self._tracker.log(values)

    def begin(self, step: int) -> None:
        """Keep the log's lines up to `step`, and write config.json."""
        if step:
            trim(self.path / "log.jsonl", step)
        else:  # of a run that ended before its first checkpoint
            (self.path / "log.jsonl").unlink(missing_ok=True)
        if "config" in self.meta:
            text = json.dumps(self.meta["config"], indent=1) + "\n"
            replace(self.path / "config.json", text)
        config = cast("Mapping[str, Json]", self.meta.get("config", {}))
        self._tracker = open_tracker(self.track, self.path, step, config)


class PassingFolder(RunFolder):
    """A folder whose checkpoint serves only to continue after a kill: losing it costs time.

    Writing takes at most SHARE of the training's time. If the checkpoint cannot be written, a
    warning is logged and the training goes on. If it cannot be read, a warning is logged and the
    training restarts. The caller keeps other processes out, and calls discard() in the end.

    Args:
        size: Expected bytes of the checkpoint.
    """

    def __init__(self, path: Path, meta: Mapping[str, Json], *, size: int) -> None:
        super().__init__(path, meta)
        self._began, self._spent, self._cost = time.monotonic(), 0.0, size / SPEED
        self._retry, self._mute = -math.inf, False

    def alone(self) -> AbstractContextManager[None]:
        """See RunFolder.alone: the caller holds the folder."""
        return nullcontext()

    def due(self, step: int, *, every: int, last: bool) -> bool:  # noqa: ARG002 - by time only
        """Return whether another write keeps within `SHARE` of the time since the start."""
        now = time.monotonic()
        allowed = SHARE * (now - self._began)
        return not last and now >= self._retry and self._spent + self._cost <= allowed

    def save(self, state: Mapping[str, object]) -> None:
        """Write the checkpoint, or warn that it could not be written."""
        began = time.monotonic()
        try:
            super().save(state)
        except CheckpointError as error:
            self._retry = time.monotonic() + RETRY
            LOGGER.warning(
                "%s; no result depends on it, but what was learned since is lost if this process "
                "ends (next try in %.0f min)",
                " ".join(str(error).split()),
                RETRY / 60,
            )
        self._cost = time.monotonic() - began
        self._spent += self._cost

    def error(self, reason: str, advice: str) -> CheckpointError:  # noqa: ARG002 - none is needed
        """Return the error for a folder that cannot be continued; continuing() logs it."""
        return CheckpointError(f"{self.file}: {reason}")

    @contextmanager
    def continuing(self) -> Iterator[None]:
        """Return a context in which a CheckpointError becomes a warning."""
        try:
            yield
        except CheckpointError as error:
            LOGGER.warning("%s; not continued, the training restarts", error)

    def log(self, values: Mapping[str, float]) -> None:
        """Append a line to log.jsonl, or warn."""
        with self._logging():
            super().log(values)

    def begin(self, step: int) -> None:
        """See RunFolder.begin."""
        with self._logging():
            super().begin(step)

    @contextmanager
    def _logging(self) -> Iterator[None]:
        try:
            yield
        except TrainingError as error:
            if not self._mute:  # once, not for each line of the log
                LOGGER.warning("%s; no result depends on it", error)
            self._mute = True


def checkpoint_bytes(parameters: Iterable[Tensor]) -> int:
    """Return the bytes of a passing checkpoint: weights, Adam's two moments, best weights."""
    return 4 * sum(value.numel() * value.element_size() for value in parameters)


def discard(path: Path) -> None:
    """Remove the checkpoint of a run folder: the training's result is stored elsewhere."""
    (path / CHECKPOINT).unlink(missing_ok=True)


UNSET = "not set"  # a recipe's key that has its default


def difference(
    wanted: Mapping[str, Json], stored: Mapping[str, Json], free: Collection[str] = ()
) -> str | None:
    """Return the first dotted key whose stored value differs, with both values, or None.

    Top-level keys that `stored` lacks are ignored: earlier revisions did not store them.
    """
    changes = (_change(stored[k], wanted[k], k, free) for k in wanted if k in stored)
    change = next(filter(None, changes), None)
    return change and change.removeprefix("config.")


def _change(old: Json, new: Json, name: str, free: Collection[str]) -> str | None:
    if name in free or old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        changes = (
            _change(old.get(k, UNSET), new.get(k, UNSET), f"{name}.{k}", free)
            for k in sorted({*old, *new}, key=str)
        )
        return next(filter(None, changes), None)
    return f"{name}: {old} there, {new} here"


def _misfit(stored: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Return the first weight or parameter group that differs from the stored one."""
    own, other = model.state_dict(), stored["model"]
    for name in sorted(own.keys() | other.keys()):
        there, here = (
            list(weights[name].shape) if name in weights else "none" for weights in (other, own)
        )
        if there != here:
            return f"{name}: {there} there, {here} here"
    there, here = (
        [
            len(group["params"])
            for group in cast("list[dict[str, list[int]]]", state["param_groups"])
        ]
        for state in (stored["optimizer"], optimizer.state_dict())
    )
    return None if there == here else f"parameters by group: {there} there, {here} here"
