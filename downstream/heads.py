"""SUPERB's heads over a softmax-weighted sum of hidden states.

Shapes: B batch, T frames, L hidden states, D dimension, V outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.downstream.task import HeadConfig


class WeightedSum(nn.Module):
    """One scalar per hidden state, initially zero, softmax over them (s3prl's Featurizer)."""

    def __init__(self, num_layers: int, *, layer_norm: bool) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))
        self.layer_norm = layer_norm

    @property
    def weights(self) -> Tensor:
        """Return the weights (L,), which sum to one."""
        return self.scores.softmax(0)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, T, D) of features (B, T, L, D)."""
        if self.layer_norm:
            features = F.layer_norm(features, features.shape[-1:])
        return torch.einsum("btld,l->btd", features, self.weights)


class LinearHead(nn.Module):
    """Linear, Linear, nothing between them (s3prl's FrameLevelLinear)."""

    def __init__(self, num_layers: int, dim: int, outputs: int, config: HeadConfig) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.projection = nn.Linear(dim, config.projection)
        self.output = nn.Linear(config.projection, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,)."""
        return self.output(self.projection(self.sum(features))), lengths


class PooledHead(LinearHead):
    """Linear, mean over real frames, Linear (s3prl's MeanPoolingLinear); exact on features already averaged."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) and the lengths as they came."""
        x = self.projection(self.sum(features))  # (B, T, P)
        real = torch.arange(x.shape[1], device=x.device)[None] < lengths[:, None]
        mean = (x * real[..., None]).sum(1) / lengths[:, None]
        return self.output(mean), lengths


class RecurrentHead(nn.Module):
    """Linear, bidirectional LSTM layers, Linear (SUPERB's ASR head), with SpecAugment on the features in training."""

    def __init__(self, num_layers: int, dim: int, outputs: int, config: HeadConfig) -> None:
        super().__init__()
        self.spec_augment = config.spec_augment
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.projection = nn.Linear(dim, config.projection)
        sizes = [config.projection] + [2 * config.hidden] * (config.lstm_layers - 1)
        self.forwards = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(nn.LSTM(size, config.hidden, batch_first=True) for size in sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(2 * config.hidden, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,)."""
        x = self.sum(features)
        if self.spec_augment and self.training:
            x = mask_features(x, lengths)
        x = self.projection(x)
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            # each row reversed by its own length: padding is read last, never first, and packing (4 x slower on a CPU
            # at this size) is not needed
            reverse = flip(back(flip(x, lengths))[0], lengths)
            x = self.dropout(torch.cat([ahead(x)[0], reverse], dim=-1))
        return self.output(x), lengths


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) with the real frames of each row in reverse order, the padding where it was."""
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, index[..., None].expand_as(x))


TIME_MASKS, TIME_WIDTH, CHANNEL_MASKS, CHANNEL_WIDTH = 2, 40, 4, 50  # SUPERB's ASR recipe


def mask_features(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) with 2 stretches of up to 40 frames and 4 of up to 50 channels set to zero in each row."""
    x = x.clone()
    for row, length in zip(x, lengths.tolist(), strict=True):
        for count, widest, size, axis in (
            (TIME_MASKS, TIME_WIDTH, length, 0),
            (CHANNEL_MASKS, CHANNEL_WIDTH, x.shape[2], 1),
        ):
            for _ in range(count):
                width = int(torch.randint(0, min(widest, size) + 1, ()))
                start = int(torch.randint(0, size - width + 1, ()))
                row.narrow(axis, start, width).zero_()
    return x
