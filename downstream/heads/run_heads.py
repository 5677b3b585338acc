"""Several heads on one batch: linear ones as one batched problem, others in turn.

Shapes: F batches, L hidden states, B batch, T frames, D dimension, V outputs, K heads.
"""

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

    Linear heads are one batched problem, or one for each layer where they read single ones. Of F
    batches, features (F, L, B, T, D) and lengths (F, B), each is for K / F consecutive ones, whose
    layers are the same in every batch. Other heads run in turn on one batch, each with the same
    dropout and masks, so that no head depends on the others.
    """
    if as_one(heads[0]):
        batches = len(features) if features.dim() > 4 else 1
        parts, linear, each = [], cast("Sequence[LinearHead]", heads), len(heads) // batches
        alike = [linear[number::each] for number in range(each)]  # one head of every batch
        for _, group in groupby(alike, lambda heads: heads[0].sum.layer):
            own = [head for heads_of_batch in zip(*group, strict=True) for head in heads_of_batch]
            x = weigh([head.sum for head in own], features)
            x = mean(x, lengths) if isinstance(own[0], PooledHead) else x
            logits = project(own, x)
            parts.append(logits.view(batches, -1, *logits.shape[1:]))
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return logits.flatten(0, 1), lengths
    seed, rows = int(torch.randint(2**31, ())), []
    for head in heads:
        seed_torch(seed)
        logits, counts = head(features, lengths)
        rows.append(logits)
    return torch.stack(rows), counts
