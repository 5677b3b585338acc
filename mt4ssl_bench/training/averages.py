"""Averages since the last log line, over batches, frames and processes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mt4ssl_bench.training.distributed import World


class Averages:
    """Sums since the last log line; tensors stay on their device until take()."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._began, self._waited, self._seconds = time.monotonic(), 0.0, 0.0
        self._count = self._batches = 0
        self._sums: dict[str, Tensor] = {}
        self._monitors: dict[str, Tensor] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(
        self, sums: Mapping[str, Tensor], monitors: Mapping[str, Tensor], count: int, seconds: float
    ) -> None:
        """Add a batch: sums over `count` frames, monitors of the whole batch, seconds of audio."""
        for totals, values in ((self._sums, sums), (self._monitors, monitors)):
            for name, value in values.items():
                zero = torch.zeros((), device=value.device)
                totals[name] = totals.get(name, zero) + value.detach()
        self._count += count
        self._batches += 1
        self._seconds += seconds

    def take(self, world: World) -> dict[str, float]:
        """Return the averages over all processes, and reset."""
        wall = max(time.monotonic() - self._began, 1e-9)
        own = [self._count, self._batches, self._seconds, self._waited]
        own += [total.item() for total in (*self._sums.values(), *self._monitors.values())]
        count, batches, seconds, waited, *totals = world.sum(*own)
        means = {name: totals.pop(0) / max(count, 1) for name in self._sums}
        means |= {name: totals.pop(0) / max(batches, 1) for name in self._monitors}
        means["audio_seconds_per_second"] = seconds / wall
        means["waiting_share"] = waited / world.size / wall
        self._reset()
        return means
