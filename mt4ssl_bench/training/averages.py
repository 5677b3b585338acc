"""Means since the last log line, over batches, frames and processes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mt4ssl_bench.training.distributed import World


class Window:
    """Sums since the last log line."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.began, self.waited, self.seconds = time.monotonic(), 0.0, 0.0
        self.count = self.batches = 0
        self.sums: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a block as spent waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def add(
        self, sums: Mapping[str, Tensor], monitors: Mapping[str, Tensor], count: int, seconds: float
    ) -> None:
        """Add one batch: sums over `count`, monitors of the whole batch, seconds of audio."""
        for store, values in ((self.sums, sums), (self.monitors, monitors)):
            for name, value in values.items():
                store[name] = store.get(name, torch.zeros((), device=value.device)) + value.detach()
        self.count, self.batches, self.seconds = (
            self.count + count,
            self.batches + 1,
            self.seconds + seconds,
        )

    def take(self, world: World) -> dict[str, float]:
        """Return the means over all processes, and begin anew."""
        wall = max(time.monotonic() - self.began, 1e-9)
        parts = [self.count, self.batches, self.seconds, self.waited]
        parts += [value.item() for value in (*self.sums.values(), *self.monitors.values())]
        count, batches, seconds, waited, *values = world.sum(*parts)
        found = {name: values.pop(0) / max(count, 1) for name in self.sums}
        found |= {name: values.pop(0) / max(batches, 1) for name in self.monitors}
        found |= {
            "audio_seconds_per_second": seconds / wall,
            "waiting_share": waited / world.size / wall,
        }
        self._clear()
        return found
