"""The best head of each single layer of a sweep, and the scores of all of them for the record."""

from collections.abc import Mapping, Sequence

from mt4ssl_bench.downstream.layers.single_layers import OneLayer
from mt4ssl_bench.downstream.task import Task, Trained
from mt4ssl_bench.downstream.training.choose_rate import best_of
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.record_parts import LayerScore, Trial


def best_of_layers(trials: Sequence[Trial], metric: Metric) -> list[int]:
    """Return the number of each layer's best trial, of layers that have one, in their order.

    Without single layers it is the best of all.
    """
    layers = dict.fromkeys(trial.get("layer") for trial in trials)
    best = [best_of([t for t in trials if t.get("layer") == layer], metric) for layer in layers]
    return [n for n, trial in enumerate(trials) if any(trial is each for each in best)]


def by_layer(trials: Sequence[Trial], answers: Mapping[int, list[str]]) -> list[OneLayer]:
    """Return what the record holds of each layer; none for heads on the weighted sum.

    Args:
        trials: Of the sweep.
        answers: Hypotheses on test of some of them, by number.
    """
    return [
        OneLayer(layer=trial["layer"], valid=trial["valid"], hypotheses=hypotheses)
        for trial, hypotheses in ((trials[n], each) for n, each in answers.items())
        if "layer" in trial and trial["valid"] is not None
    ]


def layer_curves(task: Task, trained: Trained) -> dict[str, list[LayerScore]]:
    """Return each metric of the best head of every layer, none for heads on the weighted sum."""
    curves: dict[str, list[LayerScore]] = {}
    for one in trained.layers:
        answers = task.answers(trained.cuts, one.hypotheses)
        for metric in task.all_metrics:
            score = metric.score(answers)
            row: LayerScore = {
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "layer": one.layer,
            }
            if metric.name == task.metric.name:
                row["valid"] = one.valid
            curves.setdefault(metric.name, []).append(row)
    return curves
