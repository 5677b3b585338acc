"""The choice of learning rate and seed, on the validation split."""

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
        lr, seed = parts[0]["lr"], parts[0]["seed"]
        trials.append({"lr": lr, "seed": seed, "valid": valid, "steps": steps, "chosen": False})
    scored = [(trial["valid"], trial) for trial in trials if trial["valid"] is not None]
    if not scored:
        tried = list(dict.fromkeys(trial["lr"] for trial in trials))
        raise TrainingError(
            f"{title}: training failed at every learning rate of {tried}; try lower ones"
        )
    best = scored[0]
    for each in scored[1:]:
        best = each if metric.better(each[0], best[0]) else best
    best[1]["chosen"] = True
    return trials
