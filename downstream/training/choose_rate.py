"""The choice of the learning rate, on the validation split."""

from collections.abc import Sequence
from statistics import fmean

from mt4ssl_bench.errors import TrainingError
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.record_parts import Trial


def choose(folds: Sequence[Sequence[Trial]], metric: Metric, title: str) -> list[Trial]:
    """Return the trials with their mean scores on valid over folds; one rate's are chosen.

    It is the rate whose mean over seeds is best, the first of equal ones.

    Raises:
        TrainingError: If no rate has a score of every seed in every fold.
    """
    trials: list[Trial] = []
    for parts in zip(*folds, strict=True):
        scores = [part["valid"] for part in parts if part["valid"] is not None]
        valid = fmean(scores) if len(scores) == len(parts) else None
        steps = max(part["steps"] for part in parts)
        lr, seed = parts[0]["lr"], parts[0]["seed"]
        trials.append({"lr": lr, "seed": seed, "valid": valid, "steps": steps, "chosen": False})
    means: dict[float, float] = {}
    tried = list(dict.fromkeys(trial["lr"] for trial in trials))
    for lr in tried:
        of_rate = [trial["valid"] for trial in trials if trial["lr"] == lr]
        scores = [score for score in of_rate if score is not None]
        if len(scores) == len(of_rate):
            means[lr] = fmean(scores)
    if not means:
        raise TrainingError(
            f"{title}: training failed at every learning rate of {tried}; try lower ones"
        )
    best = next(iter(means))
    for lr, mean in means.items():
        best = lr if metric.better(mean, means[best]) else best
    return [{**trial, "chosen": trial["lr"] == best} for trial in trials]


def chosen(trials: Sequence[Trial]) -> list[int]:
    """Return the indices of the chosen trials, one for each seed."""
    return [number for number, trial in enumerate(trials) if trial["chosen"]]
