"""Monitors of a pretraining: the labels' entropy, the rank of the targets, and what they warn of.

Shapes: M masked frames, D dimension, V clusters.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor

from mt4ssl_bench.training.distributed import World

LOGGER = logging.getLogger(__name__)
FRAMES = 2048  # of a batch at most, whose rank is computed


class TargetStatistics:
    """Statistics of the targets at masked frames; values are computed only in take().

    Labels are counted on the host, since the last take(). Of vectors, the last batches are kept, so
    that the statistics add no work and no wait to an update.

    Args:
        batches: Batches of vectors that are kept: those of one update. None keeps all.
    """

    def __init__(self, batches: int | None = None) -> None:
        self._counts = torch.zeros(0, dtype=torch.long)  # (V,)
        self._vectors: deque[Mapping[str, Tensor]] = deque(maxlen=batches)

    def add(self, labels: Tensor | None, targets: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            labels: (M,) on the host; None if no extractor reads labels.
            targets: By extractor, at the same frames; those of shape (M, D) are vectors.
        """
        if labels is not None:
            counts = torch.bincount(labels, minlength=len(self._counts))
            counts[: len(self._counts)] += self._counts
            self._counts = counts
        self._vectors.append({n: x for n, x in targets.items() if x.is_floating_point()})

    def take(self, world: World) -> dict[str, float]:
        """Return the values over all processes, and reset.

        label_entropy: In nats: the cross entropy of a prediction that knows only how frequent each
            label is.
        label_top_share: Share of the most frequent label: the accuracy of that prediction.
        <name>_target_rank: effective_rank() of a batch's targets, mean over the kept batches.
        """
        found: dict[str, float] = {}
        size = max(world.gather(len(self._counts)))
        if size:
            own = torch.zeros(size, dtype=torch.long)
            own[: len(self._counts)] = self._counts
            shares = torch.tensor(world.sum(*own.tolist()), dtype=torch.float64)
            shares /= shares.sum()
            found["label_entropy"] = float(torch.special.entr(shares).sum())
            found["label_top_share"] = float(shares.max())
        names = max(world.gather(sorted({n for batch in self._vectors for n in batch})), key=len)
        ranks = [sum(effective_rank(batch[name]) for batch in self._vectors) for name in names]
        count, *totals = world.sum(len(self._vectors), *ranks)
        for name, total in zip(names, totals, strict=True):
            found[f"{name}_target_rank"] = total / count
        self._counts = self._counts[:0]
        self._vectors.clear()
        return found


def effective_rank(vectors: Tensor) -> float:
    """Return the effective rank of vectors (M, D), from 1 to D; 0 if all are equal.

    It is the exponential of the entropy of the singular values of the centered matrix, as shares of
    their sum (Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality",
    EUSIPCO, definition 1; Garrido et al. 2023, arXiv 2210.02885, use it for collapse). At most
    FRAMES vectors are read, evenly spaced.
    """
    step = max(1, math.ceil(len(vectors) / FRAMES))
    x = vectors[::step].cpu().double()
    x = x - x.mean(dim=0)
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # the same singular values
    if not bool(gram.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0
