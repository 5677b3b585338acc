"""A linear head on the mean over time."""

import torch
from torch import Tensor

from mt4ssl_bench.downstream.heads.linear import LinearHead, project
from mt4ssl_bench.downstream.heads.weighted_sum import weigh


class PooledHead(LinearHead):
    """Linear, mean over real frames, Linear (s3prl's MeanPoolingLinear).

    Exact on features already averaged.
    """

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) and the lengths as they came."""
        return project([self], mean(weigh([self.sum], features), lengths))[0], lengths


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean (K, B, D) over the real frames of x (K, B, T, D): linear maps may as well
    follow it.
    """
    real = torch.arange(x.shape[2], device=x.device)[None] < lengths[:, None]  # (B, T)
    return (x * real[..., None]).sum(2) / lengths[:, None]
