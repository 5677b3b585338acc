"""Monitors of a pretraining: the labels' entropy, the rank of the targets, and what they warn of.

Shapes: M masked frames, D dimension, V clusters.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mt4ssl_bench.training.distributed import World

LOGGER = logging.getLogger(__name__)
FRAMES = 2048  # of a batch at most, whose rank is computed
# Of mt4ssl_tiny and mt4ssl_demo: runs that learn their labels leave the plateau within 700 updates
PATIENCE = 1_000  # updates at the full rate, from which on a plateau is one
LEARNED = 0.05  # share of the labels' entropy that is explained by then; 0.18 after 700 updates
# Of the dimension: collapsed targets have 0.04 and less, random and healthy ones 0.2 and more
LEAST_RANK = 0.05


class Warnings:
    """One line in the log, once in a process, for a pretraining that learns little.

    Args:
        dim: Of the targets.
        warmup: Updates before the full learning rate.
    """

    def __init__(self, dim: int, warmup: int) -> None:
        self.dim, self.warmup = dim, warmup
        self._said: set[str] = set()

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Warn of what the values of a line of the log, after update `step`, show."""
        for name, message in self.found(step, values):
            if name not in self._said:
                self._said.add(name)
                LOGGER.warning("update %d: %s", step, message)

    def found(self, step: int, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Yield the key of each suspicious value, and what is wrong with what may help."""
        loss, entropy = values.get("offline", 0.0), values.get("label_entropy", math.inf)
        if step >= self.warmup + PATIENCE and loss > (1 - LEARNED) * entropy:
            plateau = (
                f"the labels are not learned: cross entropy {loss:.2f}, their entropy is "
                f"{entropy:.2f} nats; a lower optim.lr or targets.online.weight, masking.clones=2, "
                "or other labels (targets.offline.normalize, .clusters) may help"
            )
            yield "offline", plateau
        rank = values.get("online_target_rank", math.inf)
        if step > self.warmup and rank < LEAST_RANK * self.dim:
            collapse = (
                f"targets collapse: online_target_rank is {rank:.1f} of {self.dim} dimensions; a "
                "slower teacher (targets.online.ema_start and ema_end nearer 1), a lower optim.lr, "
                "or labels beside it (targets.offline.weight) may help"
            )
            yield "online", collapse


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
            targets: By extractor, at the same frames, for all batches the same extractors.
                Those of shape (M, D) are vectors.
        """
        if labels is not None:
            counts = torch.bincount(labels, minlength=len(self._counts))
            counts[: len(self._counts)] += self._counts
            self._counts = counts
        self._vectors.append(
            {n: x for n, x in targets.items() if x.is_floating_point() and x.ndim == 2}
        )

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
