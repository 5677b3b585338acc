"""The choice of learning rate, seed and layer, on the validation split."""

import math
from collections.abc import Sequence
from statistics import fmean

from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.record_parts import Trial


def choose(folds: Sequence[Sequence[Trial]], metric: Metric, title: str) -> list[Trial]:
    """Return the trials with their mean scores on valid over folds, the best one chosen.

    Raises:
        TrainingError: If none has a score in every fold.
    """
    trials: list[Trial] = []
    for parts in zip(*folds, strict=True):
        scores = [part["valid"] for part in parts if part["valid"] is not None]
        valid = fmean(scores) if len(scores) == len(parts) else None
        steps = max(part["steps"] for part in parts)
        trials.append(parts[0].copy())
        trials[-1] |= {"valid": valid, "steps": steps, "chosen": False}
    best = best_of(trials, metric)
    if best is None:
        tried = list(dict.fromkeys(trial["lr"] for trial in trials))
        raise TrainingError(
            f"{title}: training failed at every learning rate of {tried}; try lower ones"
        )
    best["chosen"] = True
    return trials


def best_of(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """Return the trial with the best score on valid, the first of equal ones; None without any."""
    best, top = None, math.nan
    for trial in trials:
        valid = trial["valid"]
        if valid is not None and (best is None or metric.better(valid, top)):
            best, top = trial, valid
    return best
