"""SUPERB's linear heads over a softmax-weighted sum of hidden states, and many of them at once.

Shapes: F batches, B batch, T frames, N frames of a batch, D dimension, P projection, V outputs, K
heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mt4ssl_bench.device import moved
from mt4ssl_bench.downstream.config import HeadConfig
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum, weigh


class LinearHead(nn.Module):
    """Linear, Linear, nothing between them (s3prl's FrameLevelLinear)."""

    def __init__(self, num_layers: int, dim: int, outputs: int, config: HeadConfig) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.projection = nn.Linear(dim, config.projection)
        self.output = nn.Linear(config.projection, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,)."""
        return project([self], weigh([self.sum], features))[0], lengths


class PooledHead(LinearHead):
    """Linear, mean over real frames, Linear (s3prl's MeanPoolingLinear); exact on stored means."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) of features (L, B, T, D), and their lengths (B,)."""
        return project([self], mean(weigh([self.sum], features), lengths))[0], lengths


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean (K, B, D) over the real frames of x (K, B, T, D), by lengths (B,) or (F, B).

    Linear maps may follow it instead of preceding it.
    """
    lengths = moved(lengths, x.device).reshape(-1, 1, x.shape[1])  # (F, 1, B)
    real = torch.arange(x.shape[2], device=x.device) < lengths[..., None]  # (F, 1, B, T)
    x = x.reshape(len(lengths), len(x) // len(lengths), *x.shape[1:])  # (F, K / F, B, T, D)
    return ((x * real[..., None]).sum(3) / lengths[..., None]).flatten(0, 1)


def project(heads: Sequence[LinearHead], x: Tensor) -> Tensor:
    """Return K heads' logits (K, ..., V) of their sums x (K, ..., D), as batched products.

    One sum (1, ..., D) serves all heads, and of F sums (F, ..., D) each serves K / F of them.

    The two linear maps of a head are multiplied first where that is cheaper than applying both (4
    times for phonemes); gradients reach both.
    """
    rows = x.flatten(1, -2)[:, None].expand(-1, len(heads) // len(x), -1, -1)
    rows = rows.flatten(0, 1)  # (K, N, D)
    first = torch.stack([head.projection.weight for head in heads]).mT  # (K, D, P)
    second = torch.stack([head.output.weight for head in heads]).mT  # (K, P, V)
    inner = torch.stack([head.projection.bias for head in heads])[:, None]  # (K, 1, P)
    outer = torch.stack([head.output.bias for head in heads])[:, None]  # (K, 1, V)
    count, (dim, size), outputs = rows.shape[1], first.shape[1:], second.shape[2]
    if (count + size) * dim * outputs < count * size * (dim + outputs):
        logits = torch.baddbmm(inner @ second + outer, rows, first @ second)
    else:
        logits = torch.baddbmm(outer, torch.baddbmm(inner, rows, first), second)
    return logits.reshape(len(heads), *x.shape[1:-1], outputs)
