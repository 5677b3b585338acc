"""Run folders: where a training keeps its checkpoint and log, and what of them it continues
from.
"""

import json
import logging
import math
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from mt4ssl_bench import checkpoint
from mt4ssl_bench.errors import CheckpointError, TrainingError
from mt4ssl_bench.files import locked
from mt4ssl_bench.results.run_log import replace, trim, write

LOGGER = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
SHARE = 0.01  # of a training's time at most goes into writing passing checkpoints
SPEED = 1e8  # bytes per second: the guess of a disk's speed until a write has been measured
RETRY = 600.0  # seconds after a failed write until the next one
STATE = {"optimizer", "scaler", "step", "epoch", "position", "shares"}  # beside the model's weights


class RunFolder:
    """A folder of one training, which is written every few updates; an error in it stops the run.

    Args:
        path: gets checkpoint.pt and log.jsonl.
        meta: stored in the checkpoint; a folder whose meta differs is refused. Its "config" is
            kept as config.json too.
        free: dotted keys of `meta` that may differ.
    """

    def __init__(
        self, path: Path, meta: Mapping[str, Any] | None = None, free: Collection[str] = ()
    ) -> None:
        self.path, self.meta, self.free = path, dict(meta or {}), free
        self.file = path / CHECKPOINT

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which no other process trains in this folder."""
        return locked(self.path)

    def due(self, step: int, *, every: int, last: bool) -> bool:
        """Return whether to save after `step` updates, the `last` ones of the training or not."""
        return last or step % every == 0

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint, atomically; raises CheckpointError if the disk does not take it."""
        checkpoint.save({**self.meta, **state}, self.file)

    def load(self) -> dict[str, Any] | None:
        """Return the stored state, or None if there is none.

        Raises:
            CheckpointError: If it is damaged, of other settings, or a model without its training.
        """
        if not self.file.exists():
            return None
        stored = checkpoint.load(self.file)
        if damaged := zipfile.ZipFile(self.file).testzip():  # torch verifies no checksum
            raise CheckpointError(f"{self.file}: damaged ({damaged} fails its checksum)")
        changed = difference(self.meta, stored, self.free)
        if changed:
            raise self.error(
                f"holds a run with other settings ({changed})",
                "choose another --out, or repeat its own",
            )
        if missing := STATE - stored.keys():
            raise self.error(
                f"holds a model but not the state of its training ({', '.join(sorted(missing))})",
                f"choose another --out, with init={self.path} to start from its weights",
            )
        return stored

    def error(self, reason: str, advice: str) -> CheckpointError:
        """Return the error for a folder that cannot be continued."""
        return CheckpointError(f"{self.path}: {reason}; {advice}")

    def continuing(self) -> AbstractContextManager[None]:
        """Return a context for loading: here, a CheckpointError in it stops the run."""
        return nullcontext()

    def log(self, values: Mapping[str, float]) -> None:
        """Append a line to log.jsonl; raises TrainingError if the disk does not take it."""
        write(self.path / "log.jsonl", values)

    def begin(self, step: int) -> None:
        """Keep the log's lines up to `step`, and write config.json."""
        if step:
            trim(self.path / "log.jsonl", step)
        else:  # of a run that ended before its first checkpoint
            (self.path / "log.jsonl").unlink(missing_ok=True)
        if "config" in self.meta:
            text = json.dumps(self.meta["config"], indent=1) + "\n"
            replace(self.path / "config.json", text)


class PassingFolder(RunFolder):
    """A folder whose checkpoint is only there to survive a kill: its loss costs time, no result.

    It is written by time, at most `SHARE` of it. If it cannot be written, a warning says so and
    the training goes on; if it cannot be continued, a warning says why and the training begins
    anew. Whoever trains keeps other processes out, and calls discard() in the end.

    Args:
        size: expected bytes of the checkpoint.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], *, size: int) -> None:
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

    def save(self, state: Mapping[str, Any]) -> None:
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
        """Return the error for a folder that cannot be continued.

        Continuing() makes it a warning.
        """
        return CheckpointError(f"{self.file}: {reason}")

    @contextmanager
    def continuing(self) -> Iterator[None]:
        """Return a context in which a CheckpointError becomes a warning."""
        try:
            yield
        except CheckpointError as error:
            LOGGER.warning("%s; not continued, the training begins anew", error)

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
    """Return the bytes of a passing checkpoint: weights, Adam's two moments, the best weights on
    valid.
    """
    return 4 * sum(value.numel() * value.element_size() for value in parameters)


def discard(path: Path) -> None:
    """Remove the checkpoint of a run folder: the training's result is stored elsewhere."""
    (path / CHECKPOINT).unlink(missing_ok=True)


UNSET = "not set"  # a recipe's key that has its default


def difference(
    wanted: Mapping[str, Any], stored: Mapping[str, Any], free: Collection[str] = ()
) -> str | None:
    """Name the first dotted key whose stored value differs, with both values, or return None.

    A top-level key that `stored` lacks is of a revision that did not store it, and differs in
    nothing.
    """
    found = (_differing(stored[k], wanted[k], k, free) for k in wanted if k in stored)
    changed = next(filter(None, found), None)
    return changed and changed.removeprefix("config.")


def _differing(old: object, new: object, name: str, free: Collection[str]) -> str | None:
    if name in free or old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        found = (
            _differing(old.get(k, UNSET), new.get(k, UNSET), f"{name}.{k}", free)
            for k in sorted({*old, *new}, key=str)
        )
        return next(filter(None, found), None)
    return f"{name}: {old} there, {new} here"
