"""Copies of a run's log for TensorBoard or Weights & Biases, under the names of log.jsonl.

The log stays the truth: a copy that fails later is given up with a warning, and the run goes on.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from mt4ssl_bench.errors import ConfigError, with_class
from mt4ssl_bench.files import write_text
from mt4ssl_bench.settings import Json
from mt4ssl_bench.wheels import missing

LOGGER = logging.getLogger(__name__)
PROJECT = "mt4ssl-bench"  # on Weights & Biases, unless WANDB_PROJECT names another
Kind = Literal["none", "tensorboard", "wandb"]


class Tracker(Protocol):
    """A copy of a log."""

    def log(self, values: Mapping[str, float]) -> None:
        """Copy a line of the log; `values` has a "step"."""

    def close(self) -> None:
        """Write what is left."""


def check_tracker(kind: Kind) -> None:
    """Raise ConfigError if a kind of tracking is not installed."""
    if kind != "none" and find_spec(kind) is None:
        raise ConfigError(missing(f"fit.track={kind}", kind))


def open_tracker(kind: Kind, folder: Path, step: int, config: Mapping[str, Json]) -> Tracker | None:
    """Return the copy of the log in `folder` that goes on after update `step`, None for "none".

    Raises:
        ConfigError: If it cannot be opened, for example without a login.
    """
    if kind == "none":
        return None
    try:
        made = _TensorBoard(folder, step) if kind == "tensorboard" else _Wandb(folder, step, config)
    except Exception as error:  # noqa: BLE001 - another library raises what it likes
        way = "; run: wandb login, or set WANDB_MODE=offline" if kind == "wandb" else ""
        raise ConfigError(f"fit.track={kind}: not opened ({with_class(error)}){way}") from None
    return _GivenUp(made, kind)


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        # what was written after the checkpoint is hidden: these updates are made again
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, values: Mapping[str, float]) -> None:
        step = int(values["step"])
        for name, value in values.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run may be killed

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, step: int, config: Mapping[str, Json]) -> None:
        import wandb  # takes a second

        mark = folder / "wandb_run"
        if step == 0 or not mark.exists():
            write_text(mark, f"{secrets.token_hex(4)}\n")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=mark.read_text(encoding="ascii").strip(),
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # curves are over the run's updates; the library's own steps cannot go back to a checkpoint
        self._run.define_metric("*", step_metric="step")
        LOGGER.info("tracking: %s", self._run.dir if self._run.offline else self._run.url)

    def log(self, values: Mapping[str, float]) -> None:
        self._run.log(dict(values))

    def close(self) -> None:
        self._run.finish()


class _GivenUp:
    """A tracker that is left out with a warning once it fails."""

    def __init__(self, tracker: Tracker, kind: Kind) -> None:
        self._tracker: Tracker | None = tracker
        self._kind = kind

    def log(self, values: Mapping[str, float]) -> None:
        try:
            if self._tracker:
                self._tracker.log(values)
        except Exception as error:  # noqa: BLE001 - see open_tracker
            self._give_up(error)

    def close(self) -> None:
        try:
            if self._tracker:
                self._tracker.close()
        except Exception as error:  # noqa: BLE001 - see open_tracker
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tracker = None
        LOGGER.warning(
            "fit.track=%s: stopped (%s); log.jsonl goes on", self._kind, with_class(error)
        )
