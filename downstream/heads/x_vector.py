"""The x-vector head of speaker verification: frames in context, statistics over time, an embedding.

Shapes: L hidden states, B batch, T frames, D dimension, C channels, E embedding, S speakers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, Bounds
from mt4ssl_bench.device import moved
from mt4ssl_bench.downstream.config import HeadConfig
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum

CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # frames and dilation of each layer
LOST = sum((frames - 1) * dilation for frames, dilation in CONTEXTS)  # 14
NEEDED = LOST + 2  # frames: a standard deviation takes two


@dataclass(frozen=True, kw_only=True)
class XVectorConfig(HeadConfig):
    """The sizes of an x-vector head."""

    projection: int = 512  # dimension of all layers but the last over frames, and of the embedding
    pooled: int = 1500  # dimension of the last layer over frames

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "pooled"}


class XVectorHead(nn.Module):
    """Linear, five layers of frames in context, mean and deviation, two linear layers, speakers.

    Equals s3prl's SuperbXvector with AM-softmax. The layers over frames have no padding. In
    training it returns the cosines of the second linear layer to each speaker's vector, otherwise
    the embedding, which the first one gives.
    """

    def __init__(self, num_layers: int, dim: int, speakers: int, config: XVectorConfig) -> None:
        super().__init__()
        size = config.projection
        sizes = [size] * len(CONTEXTS) + [config.pooled]
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.projection = nn.Linear(dim, size)
        self.frames = nn.ModuleList(
            nn.Conv1d(sizes[n], sizes[n + 1], frames, dilation=dilation)
            for n, (frames, dilation) in enumerate(CONTEXTS)
        )
        self.embedding = nn.Linear(2 * config.pooled, size)
        self.second = nn.Linear(size, size)
        self.speakers = nn.Parameter(torch.empty(size, speakers))
        nn.init.xavier_normal_(self.speakers)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines (B, S) in training, else embeddings (B, E), and the lengths (B,).

        Rows of fewer than NEEDED frames have no meaning.
        """
        x = self.projection(self.sum(features)).mT  # (B, C, T)
        x = F.pad(x, (0, max(NEEDED - x.shape[2], 0)))
        for layer in self.frames:
            x = layer(x).relu()
        x = self.embedding(statistics(x, lengths - LOST)).relu()
        if not self.training:
            return x, lengths
        x = self.second(x).relu()
        return F.normalize(x, dim=1) @ F.normalize(self.speakers, dim=0), lengths


def statistics(x: Tensor, lengths: Tensor) -> Tensor:
    """Return mean and unbiased standard deviation (B, 2 C) over the real frames of x (B, C, T)."""
    lengths = moved(lengths, x.device)
    real = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]  # (B, 1, T)
    count = lengths.clamp(min=2)[:, None]  # shorter rows have no meaning, and no infinite value
    mean = (x * real).sum(2) / count
    variance = ((x - mean[..., None]).square() * real).sum(2) / (count - 1)
    # the gradient of a root at 0 is infinite; torch.std takes 0 instead
    deviation = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
    return torch.cat([mean, deviation], dim=1)
