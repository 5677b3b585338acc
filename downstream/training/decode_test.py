"""Decoding of the test split by the chosen head of each fold, in the way that valid chose."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.job import Fold
from mt4ssl_bench.downstream.task import Logits
from mt4ssl_bench.errors import TrainingError


@dataclass
class Decoded:
    """The hypotheses on test, fold after fold; see Trained for the fields."""

    hypotheses: list[str] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    tuned: dict[str, float] = field(default_factory=dict)
    variants: dict[str, list[str]] = field(default_factory=dict)

    def add(self, fold: Fold, logits: Callable[[str], Iterable[Logits]], *, title: str) -> None:
        """Tune the task of a fold on valid, and decode its test split.

        Args:
            fold: The task and its cuts.
            logits: Of the chosen head on the split of a role.
            title: Names the row in messages.

        Raises:
            TrainingError: If logits on test are not finite.
        """
        task, name = fold.task, f"{fold.name}." if fold.name else ""
        self.tuned |= {f"{name}{key}": value for key, value in task.tune(logits("valid")).items()}
        for cuts, values, lengths in logits("test"):
            if not values.isfinite().all():
                raise TrainingError(f"{title}: logits on test are not finite")
            self.cuts += cuts
            self.hypotheses += task.hypotheses(cuts, values, lengths, test=True)
            for way, texts in task.variants(values, lengths).items():
                self.variants.setdefault(way, []).extend(texts)
