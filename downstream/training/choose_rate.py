"""The choice of learning rate and layer, on the validation split."""

import math
from collections.abc import Sequence
from statistics import fmean

from mt4ssl_bench.errors import DivergedError
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.record_parts import Trial


def choose(folds: Sequence[Sequence[Trial]], metric: Metric, title: str) -> list[Trial]:
    """Return the trials with their mean scores on valid over folds; one rate's are chosen.

    It is the rate whose mean over seeds is best, the first of equal ones.

    Raises:
        DivergedError: If no rate has a score of every seed in every fold.
    """
    trials: list[Trial] = []
    for parts in zip(*folds, strict=True):
        scores = [part["valid"] for part in parts if part["valid"] is not None]
        valid = fmean(scores) if len(scores) == len(parts) else None
        steps = max(part["steps"] for part in parts)
        trials.append(parts[0].copy())
        trials[-1] |= {"valid": valid, "steps": steps, "chosen": False}
    best = best_of(trials, metric)
    if not best:
        tried = list(dict.fromkeys(trial["lr"] for trial in trials))
        raise DivergedError(
            f"{title}: training failed at every learning rate of {tried}; try lower ones"
        )
    for number in best:
        trials[number]["chosen"] = True
    return trials


def best_of(trials: Sequence[Trial], metric: Metric) -> list[int]:
    """Return the numbers of the trials, one of each seed, of the best rate (and layer).

    It is the one with the best mean over seeds, the first of equal ones. Rates at which a seed has
    no score do not count; none is left if all are such.
    """
    alike: dict[tuple[float, int | None], list[int]] = {}
    for number, trial in enumerate(trials):
        alike.setdefault((trial["lr"], trial.get("layer")), []).append(number)
    best, top = list[int](), math.nan
    for numbers in alike.values():
        mean = mean_of(trials, numbers)
        if mean is not None and (not best or metric.better(mean, top)):
            best, top = numbers, mean
    return best


def mean_of(trials: Sequence[Trial], numbers: Sequence[int]) -> float | None:
    """Return the mean score on valid of some trials, None if one has none."""
    scores = [score for n in numbers if (score := trials[n]["valid"]) is not None]
    return fmean(scores) if len(scores) == len(numbers) else None


def chosen(trials: Sequence[Trial]) -> list[int]:
    """Return the numbers of the chosen trials, one for each seed."""
    return [number for number, trial in enumerate(trials) if trial["chosen"]]
