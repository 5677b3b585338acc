"""The softmax-weighted sum over hidden states, one weight for each layer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """One scalar per hidden state, initially zero, softmax over them (s3prl's Featurizer).

    Attributes:
        layer: The only hidden state that it reads, its weights being fixed; None: all.
    """

    layer: int | None = None

    def __init__(self, num_layers: int, *, layer_norm: bool) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))
        self.layer_norm = layer_norm

    @property
    def weights(self) -> Tensor:
        """Return the weights (L,), which sum to one."""
        return self.scores.softmax(0)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, T, D) of features (L, B, T, D)."""
        return weigh([self], features)[0]


def weigh(sums: Sequence[WeightedSum], features: Tensor) -> Tensor:
    """Return K weighted sums (K, B, T, D) of features (L, B, T, D), read once for all of them.

    Features (F, L, B, T, D) are F batches, each for its own K / F sums. Sums that read one layer,
    the same for all, are one for each batch: (F, B, T, D).
    """
    features = features if features.dim() == 5 else features[None]
    if sums[0].layer is not None:
        features = features[:, sums[0].layer]
    if sums[0].layer_norm:
        features = F.layer_norm(features, features.shape[-1:])
    if sums[0].layer is not None:
        return features
    # a product per frame, not one over (L, B * T * D): it is as fast, and the weights' gradients,
    # which are sums over all frames, are rounded ten times less
    count, depth, *size, dim = features.shape
    frames = features.flatten(2, 3).transpose(1, 2)  # (F, N, L, D)
    weights = torch.stack([each.weights for each in sums]).view(count, 1, -1, depth)
    weights = weights.expand(-1, frames.shape[1], -1, -1)  # (F, N, K / F, L)
    x = torch.bmm(weights.flatten(0, 1), frames.flatten(0, 1))  # views of one batch
    x = x.view(count, frames.shape[1], *x.shape[1:])  # (F, N, K / F, D)
    return x.transpose(1, 2).reshape(len(sums), *size, dim)


def layer_weights(head: nn.Module) -> list[float]:
    """Return the weight of each hidden state in a head, none where it has no weighted sum."""
    sums = [module for module in head.modules() if isinstance(module, WeightedSum)]
    return [float(weight) for weight in sums[0].weights.detach()] if sums else []
