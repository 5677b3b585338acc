"""Wall time of an evaluation, by stage."""

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
