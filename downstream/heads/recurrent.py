"""The recurrent head of speech recognition: projection, BiLSTM, linear."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mt4ssl_bench.downstream.config import RecurrentHeadConfig
from mt4ssl_bench.downstream.heads.spec_augment import augment
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum


class RecurrentHead(nn.Module):
    """Linear, bidirectional LSTM, Linear (SUPERB's ASR head); SpecAugment in training."""

    def __init__(
        self, num_layers: int, dim: int, outputs: int, config: RecurrentHeadConfig
    ) -> None:
        super().__init__()
        self.spec_augment = config.spec_augment
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        wide = config.projection  # 0: no projection
        self.projection = nn.Linear(dim, wide) if wide else nn.Identity()
        sizes = [wide or dim] + [2 * config.hidden] * (config.lstm_layers - 1)
        self.forwards = nn.ModuleList(
            nn.LSTM(size, config.hidden, batch_first=True) for size in sizes
        )
        self.backwards = nn.ModuleList(
            nn.LSTM(size, config.hidden, batch_first=True) for size in sizes
        )
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(2 * config.hidden, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,)."""
        layers = [self.dropout] * len(self.forwards)
        return self.recur(self.augmented(features, lengths), lengths, layers)

    def augmented(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the weighted sum (B, T, D), in training with SpecAugment."""
        x: Tensor = self.sum(features)
        return augment(x, lengths) if self.spec_augment and self.training else x

    def recur(
        self, x: Tensor, lengths: Tensor, dropouts: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,) of a weighted sum x (B, T, D)."""
        x = self.projection(x)
        for ahead, back, dropout in zip(self.forwards, self.backwards, dropouts, strict=True):
            # each row reversed by its own length: padding is read last, never first, and packing
            # (4 x slower on a CPU at this size) is not needed
            reverse = flip(back(flip(x, lengths))[0], lengths)
            x = dropout(torch.cat([ahead(x)[0], reverse], dim=-1))
        return self.output(x), lengths


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) with the real frames of each row reversed and the padding in place."""
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, index[..., None].expand_as(x))
