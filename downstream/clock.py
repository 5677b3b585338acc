"""Wall time of an evaluation by stage, and of a training."""

import time


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str, seconds: float | None = None) -> None:
        """End a stage; `seconds` is its time, if interrupted calls count, too."""
        now = time.monotonic()
        self.laps[name] = round(now - self._last if seconds is None else seconds, 2)
        self._last = now


class Stopwatch:
    """Seconds of a training since start(); `earlier` are those of interrupted calls."""

    def __init__(self) -> None:
        self.earlier = 0.0
        self.start()

    def start(self) -> None:
        """Begin now."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of all calls."""
        return self.earlier + time.monotonic() - self._began
