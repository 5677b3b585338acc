"""The best heads of each single layer of a sweep, and the scores of all of them for the record."""

from collections.abc import Callable, Mapping, Sequence

from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.downstream.training.choose_rate import best_of, mean_of
from mt4ssl_bench.downstream.training.trained import Decoded, OneLayer
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.metrics.best_variant import scores
from mt4ssl_bench.results.record_parts import LayerScore, Trial


def best_of_layers(trials: Sequence[Trial], metric: Metric) -> list[int]:
    """Return the numbers of each layer's best trials, of layers that have some, in their order.

    Without single layers they are the best of all.
    """
    found: list[int] = []
    for layer in dict.fromkeys(trial.get("layer") for trial in trials):
        own = [number for number, trial in enumerate(trials) if trial.get("layer") == layer]
        found += (own[n] for n in best_of([trials[number] for number in own], metric))
    return sorted(found)


def by_layer(trials: Sequence[Trial], decoded: Mapping[int, Decoded]) -> list[OneLayer]:
    """Return what the record holds of each layer; none for heads on the weighted sum.

    Args:
        trials: Of the sweep.
        decoded: Hypotheses on test of best_of_layers(), by number.
    """
    layers: dict[int, list[int]] = {}
    for number in decoded:
        if "layer" in trials[number]:
            layers.setdefault(trials[number]["layer"], []).append(number)
    return [
        OneLayer(layer=layer, valid=valid, decoded=[decoded[number] for number in numbers])
        for layer, numbers in sorted(layers.items())
        if (valid := mean_of(trials, numbers)) is not None
    ]


def layer_curves(
    task: Task, layers: Sequence[OneLayer], answers: Callable[[Sequence[Decoded]], list[Answer]]
) -> dict[str, list[LayerScore]]:
    """Return each metric of the best heads of every layer, none for heads on the weighted sum.

    Args:
        task: With its metrics.
        layers: See by_layer().
        answers: From hypotheses on test to answers.
    """
    curves: dict[str, list[LayerScore]] = {}
    for one in layers:
        own = answers(one.decoded)
        for name, score in scores(task.all_metrics, own).items():
            row: LayerScore = {
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "layer": one.layer,
            }
            if name == task.metric.name:
                row["valid"] = one.valid
            curves.setdefault(name, []).append(row)
    return curves
