"""Decoding of the test split by the chosen head of each fold, in the way that valid chose."""

from collections.abc import Callable, Iterable

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.job import Fold
from mt4ssl_bench.downstream.task import Logits
from mt4ssl_bench.downstream.training.trained import Decoded
from mt4ssl_bench.errors import TrainingError


def decode_fold(
    decoded: Decoded, fold: Fold, logits: Callable[[str], Iterable[Logits]], *, title: str
) -> list[Cut]:
    """Tune the task of a fold on valid, add the hypotheses of its test split, return its cuts.

    Args:
        decoded: Takes the hypotheses.
        fold: The task and its cuts.
        logits: Of the chosen head on the split of a role.
        title: Names the row in messages.

    Raises:
        TrainingError: If logits on test are not finite.
    """
    task, name, order = fold.task, f"{fold.name}." if fold.name else "", list[Cut]()
    decoded.tuned |= {f"{name}{key}": value for key, value in task.tune(logits("valid")).items()}
    for cuts, values, lengths in logits("test"):
        if not values.isfinite().all():
            raise TrainingError(f"{title}: logits on test are not finite")
        order += cuts
        decoded.hypotheses += task.hypotheses(cuts, values, lengths, test=True)
        for way, texts in task.variants(values, lengths).items():
            decoded.variants.setdefault(way, []).extend(texts)
    return order
