"""Panels of trained heads: learning-rate sweeps, layer weights, and scores by layer."""

import math
from collections import defaultdict
from collections.abc import Sequence

from mt4ssl_bench.report.figures import Curve, Labels, curves
from mt4ssl_bench.report.parts import Cell, Grid, Group, Looks, Panel, legend, model, number
from mt4ssl_bench.report.score_panels import Board
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.record_parts import LayerScore
from mt4ssl_bench.results.table import Row

Measured = Sequence[tuple[Row, Result]]


def sweeps(board: Board, looks: Looks) -> Group:
    """Return the score on validation of every head, by learning rate."""
    panels, names = [], list[str]()
    for column in board.main():
        measured = [(row, record) for row, record in board.measured(column) if record.sweep]
        if measured:
            names += [row.upstream for row, _ in measured]
            panels.append(_sweep(f"{column.label}: learning rates", measured, looks))
    return Group(title=board.table.title, panels=panels, legend=legend(names, looks))


def _sweep(title: str, measured: Measured, looks: Looks) -> Panel:
    lines, rows = [], []
    for row, record in measured:
        trials = sorted(record.sweep, key=lambda t: (t["lr"], t["seed"], t.get("layer", 0)))
        values = [math.nan if t["valid"] is None else t["valid"] for t in trials]
        lines.append(
            Curve(
                look=looks[row.upstream],
                x=[trial["lr"] for trial in trials],
                y=values,
                chosen=[index for index, trial in enumerate(trials) if trial["chosen"]],
                joined=len({trial["lr"] for trial in trials}) == len(trials),
            )
        )
        rows += [
            [
                model(row.upstream, looks, best=trial["chosen"]),
                Cell(f"{trial['lr']:g}", trial["lr"]),
                Cell(str(trial["seed"]), trial["seed"]),
                Cell(str(trial["layer"]), trial["layer"]) if "layer" in trial else Cell("all"),
                Cell("diverged") if trial["valid"] is None else number(value, best=trial["chosen"]),
                Cell(str(trial["steps"]), trial["steps"]),
                Cell("yes" if trial["chosen"] else ""),
            ]
            for trial, value in zip(trials, values, strict=True)
        ]
    first = measured[0][1]
    heading = f"{first.chosen_by or first.main.label} on validation"
    rates = sorted({trial["lr"] for _, record in measured for trial in record.sweep})
    headings = ["model", "learning rate", "seed", "layer", heading, "at update", "chosen"]
    labels = Labels(about=title, x="learning rate", y=heading, ticks=rates)
    diverged = sum(t["valid"] is None for _, record in measured for t in record.sweep)
    return Panel(
        title=title,
        figure=curves(lines, labels),
        grid=Grid(about=title, headings=headings, rows=rows),
        note="circles: chosen" + (f"; {diverged} heads diverged" if diverged else ""),
    )


def layer_weights(board: Board, looks: Looks) -> Group:
    """Return the part of each hidden state in the learned sum of a head."""
    panels, names = [], list[str]()
    for column in board.main():
        measured = [
            (row, record) for row, record in board.measured(column) if len(record.layer_weights) > 1
        ]
        if measured:
            names += [row.upstream for row, _ in measured]
            panels.append(_weights(f"{column.label}: layers in the sum", measured, looks))
    return Group(title=board.table.title, panels=panels, legend=legend(names, looks))


def _weights(title: str, measured: Measured, looks: Looks) -> Panel:
    lines, rows = [], []
    for row, record in measured:
        weights, norms = record.layer_weights, record.layer_norms
        parts = [w * n for w, n in zip(weights, norms, strict=True)] if norms else weights
        shares = [part / (sum(parts) or 1.0) for part in parts]
        lines.append(Curve(look=looks[row.upstream], x=list(range(len(shares))), y=shares))
        rows += [
            [
                model(row.upstream, looks),
                Cell(str(layer), layer),
                number(weights[layer], 3),
                number(norms[layer], 3) if norms else Cell("-"),
                Cell(f"{share:.3f}", best=share == max(shares)),
            ]
            for layer, share in enumerate(shares)
        ]
    headings = ["model", "hidden state", "weight", "mean norm", "share of weight x norm"]
    labels = Labels(about=title, x="hidden state (0: before the first layer)", y="share")
    grid = Grid(about=title, headings=headings, rows=rows)
    return Panel(title=title, figure=curves(lines, labels), grid=grid)


def layer_scores(board: Board, looks: Looks) -> Group:
    """Return the metrics of each layer where they are measured: ABX, and heads on one layer."""
    found: defaultdict[str, list[tuple[Row, Result, str]]] = defaultdict(list)
    for column in board.main():
        for row, record in board.measured(column):
            for metric in record.layer_scores:
                label = f"{column.recipe[0]} {record.metrics[metric].label} by layer"
                found[f"{label} ({column.recipe[1]}@{column.recipe[2][:6]})"].append(
                    (row, record, metric)
                )
    names = [row.upstream for each in found.values() for row, _, _ in each]
    panels = [_by_layer(title, each, looks) for title, each in found.items()]
    return Group(title=board.table.title, panels=panels, legend=legend(names, looks))


def _by_layer(title: str, measured: Sequence[tuple[Row, Result, str]], looks: Looks) -> Panel:
    lines, rows = [], []
    for row, record, metric in measured:
        scores = record.layer_scores[metric]
        numbers = [score.get("layer", index) for index, score in enumerate(scores)]
        lines.append(
            Curve(
                look=looks[row.upstream],
                x=numbers,
                y=[score["value"] for score in scores],
                low=[score["low"] for score in scores],
                high=[score["high"] for score in scores],
                chosen=[i for i, layer in enumerate(numbers) if layer == record.layer],
            )
        )
        rows += [
            [
                model(row.upstream, looks, best=layer == record.layer),
                Cell(str(layer), layer),
                *_layer_cells(score),
                Cell(f"yes, on {record.chosen_on}" if layer == record.layer else ""),
            ]
            for layer, score in zip(numbers, scores, strict=True)
        ]
    label = measured[0][1].metrics[measured[0][2]].label
    labels = Labels(about=title, x="hidden state (0: before the first layer)", y=label)
    headings = ["model", "hidden state", label, "low", "high", "on validation", "chosen"]
    return Panel(
        title=title,
        figure=curves(lines, labels),
        grid=Grid(about=title, headings=headings, rows=rows),
        note="circles: chosen; shaded: 95 % intervals",
    )


def _layer_cells(score: LayerScore) -> list[Cell]:
    numbers = [number(score["value"]), number(score["low"]), number(score["high"])]
    return [*numbers, number(score["valid"]) if "valid" in score else Cell("-")]
