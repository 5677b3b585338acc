"""The runs below a folder: how far each is, how fast, and when it ends; from their logs only."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from mt4ssl_bench.files import is_locked
from mt4ssl_bench.results.grid import Grid, Heading, grid

LOG, CONFIG = "log.jsonl", "config.json"
MODEL = "model.pt"  # of heads, or of a fine-tuned model, once they are trained
TAIL = 2**16  # bytes at the end of a log that are read
PLACE = {"step", "epoch", "seconds", "audio_hours", "audio_seconds_per_second", "waiting_share"}
State = Literal["running", "finished", "stopped", "new"]
Line = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as its folder shows it.

    Attributes:
        steps: Updates of the whole run; None where no config is stored.
        last: The last training line of the log.
        valid: The last validation line.
        unreadable: Lines at the log's end that are no JSON objects of numbers with a step.
    """

    folder: Path
    state: State
    steps: int | None = None
    last: Line = field(default_factory=dict)
    valid: Line = field(default_factory=dict)
    pace: float | None = None  # seconds of an update, lately
    unreadable: int = 0

    @property
    def step(self) -> int:
        """Completed updates that are logged."""
        return int(max(self.last.get("step", 0), self.valid.get("step", 0)))

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the present pace; None where that is unknown."""
        if self.steps is None or self.pace is None or self.state == "finished":
            return None
        return self.pace * max(self.steps - self.step, 0)

    @property
    def losses(self) -> dict[str, float]:
        """The losses of validation, else those of training."""
        if self.valid:
            return {k: v for k, v in self.valid.items() if k not in PLACE}
        return {k: v for k, v in self.last.items() if k not in PLACE and k != "lr"}


def runs_below(folder: Path) -> list[Run]:
    """Return the runs in `folder` and below it, by path."""
    return [read_run(log.parent) for log in sorted(folder.rglob(LOG))]


def read_run(folder: Path) -> Run:
    """Return a run as its folder shows it; damaged parts count as missing."""
    lines, unreadable = _tail(folder / LOG)
    trained = [line for line in lines if "audio_seconds_per_second" in line]
    valid = [line for line in lines if "audio_seconds_per_second" not in line]
    steps = _steps(folder / CONFIG)
    run = Run(
        folder=folder,
        state="stopped",
        steps=steps,
        last=trained[-1] if trained else {},
        valid=valid[-1] if valid else {},
        pace=_pace(trained),
        unreadable=unreadable,
    )
    return replace(run, state=_state(run))


def table(found: list[Run], root: Path) -> Grid:
    """Return a table of runs; speed is audio's time over the clock's."""
    rows = []
    for run in found:
        name = str(run.folder.relative_to(root)) if run.folder != root else root.name
        speed = run.last.get("audio_seconds_per_second", math.nan)
        losses = (f"{key.removeprefix('valid_')} {value}" for key, value in _shown(run.losses))
        rows.append(
            (
                name,
                run.state,
                f"{run.step:,}" + (f"/{run.steps:,}" if run.steps else ""),
                _duration(run.seconds_left),
                f"{speed:.0f} x" if math.isfinite(speed) and speed > 0 else "-",
                ", ".join(itertools.islice(losses, 3)),
            )
        )
    headings = [
        Heading("run", "name", key=True),
        Heading("state", "word"),
        *map(Heading, ("updates", "left", "speed")),
        Heading("losses", "text"),
    ]
    return grid("", headings, rows)


def _shown(losses: Line) -> Iterator[tuple[str, str]]:
    """Yield the values by key; a cross entropy of labels with their entropy, its plateau."""
    for key, value in losses.items():
        prefix, found, _ = key.rpartition("offline")
        entropy = losses.get(f"{prefix}label_entropy") if found and key.endswith(found) else None
        yield key, f"{value:.3g}" + (f"/{entropy:.3g}" if entropy else "")


def _state(run: Run) -> State:
    trained = any((place / MODEL).exists() for place in (run.folder, run.folder.parent))
    if trained or (run.steps is not None and run.step >= run.steps):
        return "finished"
    if is_locked(run.folder):
        return "running"
    return "stopped" if run.step else "new"


def _steps(config: Path) -> int | None:
    try:
        return int(json.loads(config.read_text(encoding="utf-8"))["fit"]["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tail(log: Path) -> tuple[list[Line], int]:
    """Return the lines at the end of a log, and how many of them cannot be read."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - TAIL, 0))
            texts = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:  # a folder of that name, or a file that this user may not read
        return [], 1
    lines = [parsed(text) for text in (texts[1:] if size > TAIL else texts)]
    good = [line for line in lines if line is not None]
    return good, len(lines) - len(good)


def parsed(text: str | bytes) -> Line | None:
    """Return a line of a log; None if it is no JSON object of numbers with a step."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    fits = isinstance(line, dict) and isinstance(line.get("step"), int)
    numbers = fits and all(isinstance(value, int | float) for value in line.values())
    return cast("Line", line) if numbers else None


def _pace(lines: list[Line]) -> float | None:
    """Return the seconds of an update between the last two lines that have the clock."""
    timed = [line for line in lines if "seconds" in line][-2:]
    if len(timed) < 2 or timed[1]["step"] <= timed[0]["step"]:
        return None
    taken = timed[1]["seconds"] - timed[0]["seconds"]
    return taken / (timed[1]["step"] - timed[0]["step"]) if taken > 0 else None


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
