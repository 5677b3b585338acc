"""The best model of a fine-tuning so far, in checkpoints of this and of the first revisions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import Tensor

from mt4ssl_bench.downstream.training.saved_model import read_model
from mt4ssl_bench.results.metrics import Metric


@dataclass(frozen=True)
class Best:
    """The best score on valid, its update, and the weights that gave it."""

    value: float = math.nan
    step: int = 0
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of weights on the CPU."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}

    def stored(self) -> dict[str, object]:
        """Return the form in a checkpoint, which read_best() takes."""
        return {"value": self.value, "step": self.step, "weights": dict(self.weights)}


def read_best(stored: Mapping[str, object], metric: Metric, folder: Path) -> Best:
    """Return the best model so far of a checkpoint.

    Args:
        stored: The checkpoint.
        metric: The main metric of the task.
        folder: Of the run; the first revisions wrote the best model into its model.pt.
    """
    if "best" in stored:
        best = cast("Mapping[str, object]", stored["best"])
        weights = cast("Mapping[str, Tensor]", best["weights"])
        return Best(cast("float", best["value"]), cast("int", best["step"]), Best.copy(weights))
    value, step = math.nan, 0
    for row in cast("list[dict[str, float]]", stored["validations"]):
        if not metric.better(value, row[metric.name]):
            value, step = row[metric.name], int(row["step"])
    model = read_model(folder)
    return Best(
        value,
        step,
        {
            f"{part}.{name}": tensor.clone()
            for part, weights in (("encoder", model["encoder"]), ("head", model["head"]))
            for name, tensor in weights.items()
        },
    )
