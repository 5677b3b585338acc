"""The recurrent head of speech recognition: projection, BiLSTM, linear."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mt4ssl_bench.device import moved
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
        self._pairs: list[nn.LSTM] = []  # of both directions, see _both()
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
        if x.is_cuda:
            return self.packed(x, lengths), lengths
        x = self.projection(x)
        for ahead, back, dropout in zip(self.forwards, self.backwards, dropouts, strict=True):
            # each row reversed by its own length: padding is read last, never first, and packing
            # (4 x slower on a CPU at this size) is not needed
            reverse = flip(back(flip(x, lengths))[0], lengths)
            x = dropout(torch.cat([ahead(x)[0], reverse], dim=-1))
        return self.output(x), lengths

    def packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits (B, T, V) of recur(), 0 in the padding, from real frames only.

        The form for CUDA: one call of cuDNN for both directions of a layer.
        """
        places, sizes = packing(lengths.tolist(), x.shape[1])
        place = moved(places, x.device)
        rows = self.projection(x.flatten(0, 1).index_select(0, place))  # (N, D)
        for both in self._both():
            rows = self.dropout(both(PackedSequence(rows, sizes))[0].data)
        logits: Tensor = self.output(rows)
        filled = logits.new_zeros(x.shape[0] * x.shape[1], logits.shape[-1])
        return filled.index_copy(0, place, logits).view(*x.shape[:2], -1)

    def _both(self) -> list[nn.LSTM]:
        """Return each layer's directions as one module with their weights, in one buffer on CUDA.

        Weights keep their names in `forwards` and `backwards`.
        """
        pairs = zip(self.forwards, self.backwards, strict=True)
        if not self._pairs or self._pairs[0].weight_ih_l0 is not self.forwards[0].weight_ih_l0:
            self._pairs = [_joined(ahead, back) for ahead, back in pairs]
        return self._pairs


def _joined(ahead: nn.Module, back: nn.Module) -> nn.LSTM:
    assert isinstance(ahead, nn.LSTM)
    sizes = ahead.input_size, ahead.hidden_size
    both = nn.LSTM(*sizes, batch_first=True, bidirectional=True, device="meta")  # draws nothing
    for module, suffix in ((ahead, ""), (back, "_reverse")):
        for name, parameter in module.named_parameters():
            setattr(both, name + suffix, parameter)
    both.flatten_parameters()
    return both


def packing(lengths: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
    """Return cuDNN's order of the real frames of rows, frame by frame, the longest row first.

    Args:
        lengths: Real frames of each row; a row without any counts as one.
        frames: T, of which each row has so many with its padding.

    Returns:
        Places (N,) in (B * T) frames, and the number of rows that have a first, second, ... frame.
    """
    counts = np.maximum(lengths, 1)
    rows = np.argsort(-counts, kind="stable")
    time = np.arange(counts.max())[:, None]
    present = time < counts[rows]  # (T, B)
    places = (rows * frames + time)[present]
    return torch.from_numpy(places), torch.from_numpy(present.sum(axis=1))


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) with the real frames of each row reversed and the padding in place."""
    lengths = moved(lengths, x.device)
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, index[..., None].expand_as(x))
