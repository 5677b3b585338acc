"""Several heads on one batch: linear ones as one batched problem, others in turn."""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.device import seed_torch
from mt4ssl_bench.downstream.heads.linear import LinearHead, PooledHead, mean, project
from mt4ssl_bench.downstream.heads.weighted_sum import weigh


def as_one(head: nn.Module) -> bool:
    """Return whether heads of this kind are one problem, whose last bits depend on their number."""
    return isinstance(head, LinearHead)


def run_heads(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits (K, B, ..., V) of K heads of one kind, and their lengths (B,).

    Linear heads are one batched problem, or one for each layer where they read single ones. Others
    run in turn, each with the same dropout and masks, so that no head depends on the others.
    """
    if as_one(heads[0]):
        parts = []
        for _, group in groupby(cast("Sequence[LinearHead]", heads), lambda head: head.sum.layer):
            linear = list(group)
            x = weigh([head.sum for head in linear], features)
            pooled = isinstance(heads[0], PooledHead)
            parts.append(project(linear, mean(x, lengths) if pooled else x))
        return parts[0] if len(parts) == 1 else torch.cat(parts), lengths
    seed, rows = int(torch.randint(2**31, ())), []
    for head in heads:
        seed_torch(seed)
        logits, counts = head(features, lengths)
        rows.append(logits)
    return torch.stack(rows), counts
