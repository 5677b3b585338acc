"""A linear head on the mean over time."""

import torch
from torch import Tensor

from mt4ssl_bench.downstream.heads.linear import LinearHead, project
from mt4ssl_bench.downstream.heads.weighted_sum import weigh


class PooledHead(LinearHead):
    """Linear, mean over real frames, Linear (s3prl's MeanPoolingLinear); exact on stored means."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) of features (L, B, T, D), and their lengths (B,)."""
        return project([self], mean(weigh([self.sum], features), lengths))[0], lengths


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean (K, B, D) over the real frames of x (K, B, T, D).

    Linear maps may follow it instead of preceding it.
    """
    real = torch.arange(x.shape[2], device=x.device)[None] < lengths[:, None]  # (B, T)
    return (x * real[..., None]).sum(2) / lengths[:, None]
