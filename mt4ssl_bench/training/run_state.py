"""What a training has reached: stored in its checkpoint, and restored when it continues."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from mt4ssl_bench.data.batches import Place
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.training.run_folder import RunFolder, State

LOGGER = logging.getLogger(__name__)


@dataclass
class RunState:
    """Weights, optimizer and loss scale, and how far the run is."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps: int  # updates of the whole run
    shares: list[int]  # processes, batches per update and process
    step: int = 0  # completed updates
    place: Place = Place()  # noqa: RUF009 - a tuple
    validations: list[dict[str, float]] = field(default_factory=list)
    audio_seconds: float = 0.0  # that all processes have trained on
    began: float = field(default_factory=time.monotonic)  # less what earlier processes took

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier processes among them."""
        return time.monotonic() - self.began

    @property
    def ended(self) -> bool:
        """Whether all updates are made."""
        return self.step >= self.steps

    def stored(self) -> State:
        """Return what the checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.place.epoch,
            "position": self.place.position,
            "validations": self.validations,
            "scaler": self.scaler.state_dict(),
            "shares": self.shares,
            "seconds": self.seconds,
            "audio_seconds": self.audio_seconds,
        }

    def resume(
        self, folder: RunFolder, world: World, restore: Callable[[State], None] | None
    ) -> None:
        """Continue from the checkpoint in `folder`, if there is one; see Hooks for `restore`.

        Raises:
            CheckpointError: If it is of another run, or not the same in all processes.
        """
        with folder.continuing():
            if stored := folder.load(self.model, self.optimizer):
                if restore:
                    restore(stored)
                self._restore(stored)
                done = f"{self.step} of {self.steps}"
                LOGGER.info("%s: continuing from update %s", folder.path, done)
        if world.main:
            folder.begin(self.step)
        steps = world.gather(self.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"{folder.path}: the processes find updates {steps} there; "
                "--out must be one folder, seen by all machines"
            )

    def _restore(self, stored: State) -> None:
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        self.step, self.place = stored["step"], Place(stored["epoch"], stored["position"])
        self.validations = list(stored["validations"])
        self.began = time.monotonic() - stored.get("seconds", 0.0)
        self.audio_seconds = stored.get("audio_seconds", 0.0)
        if stored["shares"] != self.shares:
            LOGGER.info(
                "processes x fit.accumulate: %d x %d before update %d, %d x %d from here on",
                *stored["shares"],
                self.step,
                *self.shares,
            )
