"""The curves of a pretraining run: its log, thinned to lines that are as many as a figure shows."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.results.runs import CONFIG, LOG, PLACE, Line, Run, parsed, read_run

POINTS, LEAST, MOST = 800, 40, 200  # lines that are kept of all runs, and of one run
FIRST = 20  # lines by which a log without a config is told apart
NOT_FINITE = (b"NaN", b"Infinity")


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """A run with the lines of its log that are shown, evenly spaced, the first and last of them.

    Attributes:
        train: Lines of training.
        valid: Lines of validation, which have no clock of their own.
        lines: Of the whole log.
        not_finite: Lines of the whole log with NaN or infinity.
        unreadable: Lines that are no JSON objects of numbers, of those that were read.
    """

    run: Run
    train: list[Line]
    valid: list[Line]
    lines: int = 0
    not_finite: int = 0
    unreadable: int = 0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.folder.resolve().name


def is_pretraining(folder: Path) -> bool:
    """Return whether the run in a folder is a pretraining: by its config, else by its log.

    Heads and fine-tuned models, which `evaluate` trains, have logs without losses.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict):
        return "targets" in config and "encoder" in config
    first = map(parsed, itertools.islice(_texts(folder / LOG), FIRST))
    trained = [line for line in first if line and "audio_seconds_per_second" in line]
    return any(line.keys() - PLACE - {"lr"} for line in trained)


def read_curves(folder: Path, runs: int = 1) -> RunCurves:
    """Return the curves of one of so many runs; a log that is missing has no lines.

    The log is read as a stream, and only lines that are kept are parsed.
    """
    log, counts, not_finite = folder / LOG, [0, 0], 0
    for text in _texts(log):
        counts[_of_validation(text)] += 1
        not_finite += any(word in text for word in NOT_FINITE)
    points = max(LEAST, min(MOST, POINTS // runs))
    wanted, seen = [_evenly(count, points) for count in counts], [0, 0]
    kept: tuple[list[Line], list[Line]] = [], []
    unreadable = 0
    for text in _texts(log):
        kind = _of_validation(text)
        if seen[kind] in wanted[kind]:
            line = parsed(text)
            unreadable += line is None
            kept[kind].extend([line] if line else [])
        seen[kind] += 1
    return RunCurves(
        run=read_run(folder),
        train=kept[0],
        valid=kept[1],
        lines=sum(counts),
        not_finite=not_finite,
        unreadable=unreadable,
    )


def _evenly(count: int, most: int) -> set[int]:
    """Return at most `most` numbers below `count`, the first and the last among them."""
    points = min(count, most)
    return {round(index * (count - 1) / max(points - 1, 1)) for index in range(points)}


def _texts(log: Path) -> Iterator[bytes]:
    try:
        with log.open("rb") as file:
            yield from file
    except OSError:  # no log yet, or a folder of that name
        return


def _of_validation(text: bytes) -> bool:
    return b'"valid_' in text


def place(line: Line, key: str, train: list[Line]) -> float:
    """Return where a line stands on the axis `key`; NaN if the run does not log it.

    A line of validation stands at the last line of training up to its update, or between two.
    """
    if key in line:
        return line[key]
    timed = [(each["step"], each[key]) for each in train if key in each]
    before = [pair for pair in timed if pair[0] <= line["step"]]
    after = [pair for pair in timed if pair[0] >= line["step"]]
    if not before or not after:
        return before[-1][1] if before and line["step"] == before[-1][0] else math.nan
    (a, x), (b, y) = before[-1], after[0]
    return x if a == b else x + (y - x) * (line["step"] - a) / (b - a)
