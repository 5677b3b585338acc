"""Panels of pretraining runs: every logged quantity over updates, hours of audio and seconds."""

import math
from collections.abc import Sequence

from mt4ssl_bench.report.figures import Curve, Labels, curves
from mt4ssl_bench.report.parts import Cell, Grid, Group, Looks, Panel, legend, model
from mt4ssl_bench.report.run_curves import RunCurves, place

AXES = {"updates": "step", "hours of audio": "audio_hours", "seconds of training": "seconds"}
NOT_DRAWN = {*AXES.values(), "epoch"}
VALID = "valid_"
TITLES = {
    "lr": "learning rate",
    "audio_seconds_per_second": "seconds of audio per second",
    "waiting_share": "share of time spent waiting for data",
}
WORDS = {  # ends of the names of logged values
    "_accuracy": "accuracy",
    "_ema_decay": "EMA decay",
    "_target_var": "variance of targets",
    "_pred_var": "variance of predictions",
}


def overview(runs: Sequence[RunCurves], names: Sequence[str], looks: Looks) -> Grid:
    """Return a table of runs: updates, size of the log, and the last validation."""
    keys = list(dict.fromkeys(key for each in runs for key in each.run.losses))
    rows = []
    for each, name in zip(runs, names, strict=True):
        run = each.run
        last = each.train[-1] if each.train else {}
        rows.append(
            [
                model(name, looks),
                Cell(f"{run.step:,}", run.step),
                Cell("-") if run.steps is None else Cell(f"{run.steps:,}", run.steps),
                *(logged(last.get(key)) for key in ("audio_hours", "seconds")),
                Cell(f"{each.lines:,}", each.lines),
                Cell(f"{each.not_finite:,}", each.not_finite),
                *(logged(run.losses.get(key)) for key in keys),
            ]
        )
    headings = ["run", "updates", "of", "hours of audio", "seconds", "log lines", "not finite"]
    return Grid(about="pretraining runs", headings=[*headings, *map(title_of, keys)], rows=rows)


def over(axis: str, runs: Sequence[RunCurves], names: Sequence[str], looks: Looks) -> Group:
    """Return a panel for each quantity over one of AXES, training with its validation."""
    key = AXES[axis]
    lacking = [name for each, name in zip(runs, names, strict=True) if not _has(each, key)]
    panels = []
    for quantity in quantities(runs):
        lines = [
            line
            for each, name in zip(runs, names, strict=True)
            for line in _lines(each, quantity, key, looks[name])
        ]
        if lines:
            title = title_of(quantity)
            labels = Labels(about=f"{title} over {axis}", x=axis)
            panels.append(Panel(title=title, figure=curves(lines, labels)))
    notes = ["lines: training; dashed with hollow markers: validation"] if panels else []
    if lacking:
        notes.append(f"not in the log, so not drawn over {axis}: {', '.join(lacking)}")
    return Group(title=f"over {axis}", panels=panels, legend=legend(names, looks), notes=notes)


def table_of(each: RunCurves, name: str) -> Grid:
    """Return the lines of a run that the figures show, as they are in its log."""
    lines = sorted([*each.train, *each.valid], key=lambda line: (line["step"], "epoch" not in line))
    keys = list(dict.fromkeys(key for line in lines for key in line))
    rows = [[logged(line.get(key)) for key in keys] for line in lines]
    return Grid(about=f"log of {name}", headings=keys, rows=rows)


def quantities(runs: Sequence[RunCurves]) -> list[str]:
    """Return the names of what is drawn, losses first, without the prefix of validation."""
    keys = dict.fromkeys(
        key.removeprefix(VALID)
        for each in runs
        for line in (*each.train, *each.valid)
        for key in line
        if key not in NOT_DRAWN
    )
    return sorted(keys, key=lambda key: title_of(key) != f"loss: {key}")


def title_of(key: str) -> str:
    """Return the heading of a logged value."""
    if key.startswith(VALID):
        return f"{title_of(key.removeprefix(VALID))}, validation"
    if key in TITLES:
        return TITLES[key]
    for end, words in WORDS.items():
        if f"_{key}".endswith(end):
            owner = key.removesuffix(end.lstrip("_")).rstrip("_")
            return f"{words}: {owner}" if owner else words
    return f"loss: {key}" if "_" not in key else key


def logged(value: float | None) -> Cell:
    """Return the cell of a logged number, with all of its digits."""
    if value is None:
        return Cell("-")
    return Cell(f"{value:.6g}", value if math.isfinite(value) else None)


def _lines(each: RunCurves, quantity: str, key: str, look: int) -> list[Curve]:
    found = []
    for lines, name in ((each.train, quantity), (each.valid, VALID + quantity)):
        points = [
            (x, line[name])
            for line in lines
            if name in line and math.isfinite(x := place(line, key, each.train))
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            valid = name != quantity
            drawn = [y if math.isfinite(y) else math.nan for y in ys]
            found.append(Curve(look=look, x=xs, y=drawn, dashed=valid, marked=False))
    return found


def _has(each: RunCurves, key: str) -> bool:
    return any(key in line for line in each.train)
