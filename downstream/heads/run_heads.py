"""Several heads on one batch: linear ones as one batched problem, others in turn."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.downstream.heads.linear import LinearHead, PooledHead, mean, project
from mt4ssl_bench.downstream.heads.weighted_sum import weigh


def run_heads(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits (K, B, ..., V) of K heads of one kind, and their lengths (B,).

    Linear heads are one batched problem. Others run in turn, each with the same dropout and masks,
    so that no head depends on the others.
    """
    if isinstance(heads[0], LinearHead):
        linear = cast("Sequence[LinearHead]", heads)
        x = weigh([head.sum for head in linear], features)
        return project(linear, mean(x, lengths) if isinstance(heads[0], PooledHead) else x), lengths
    seed, rows = int(torch.randint(2**31, ())), []
    for head in heads:
        torch.manual_seed(seed)
        logits, counts = head(features, lengths)
        rows.append(logits)
    return torch.stack(rows), counts
