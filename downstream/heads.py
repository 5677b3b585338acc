"""SUPERB's heads over a softmax-weighted sum of hidden states; linear ones can be run many at a time.

Shapes: B batch, T frames, N frames of a whole batch, L hidden states, D dimension, P projection, V outputs, K heads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.downstream.config import HeadConfig, RecurrentHeadConfig
from mt4ssl_bench.downstream.specaug import augment

SMALL = 256  # LSTM units of a direction up to which a head trains on one CPU thread


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
        return weigh([self], features)[0]


def weigh(sums: Sequence[WeightedSum], features: Tensor) -> Tensor:
    """Return K weighted sums (K, B, T, D) of features (B, T, L, D), which are read once for all of them."""
    if sums[0].layer_norm:
        features = F.layer_norm(features, features.shape[-1:])
    frames = features.flatten(0, 1)  # (N, L, D)
    weights = torch.stack([each.weights for each in sums]).expand(len(frames), -1, -1)  # (N, K, L)
    x = torch.bmm(weights, frames)  # (N, K, D); matmul would copy the features into another layout
    return x.transpose(0, 1).reshape(len(sums), *features.shape[:2], -1)


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
    """Linear, mean over real frames, Linear (s3prl's MeanPoolingLinear); exact on features already averaged."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, V) and the lengths as they came."""
        return project([self], mean(weigh([self.sum], features), lengths))[0], lengths


def mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean (K, B, D) over the real frames of x (K, B, T, D): linear maps may as well follow it."""
    real = torch.arange(x.shape[2], device=x.device)[None] < lengths[:, None]  # (B, T)
    return (x * real[..., None]).sum(2) / lengths[:, None]


def project(heads: Sequence[LinearHead], x: Tensor) -> Tensor:
    """Return K heads' logits (K, ..., V) of their sums x (K, ..., D), as batched products.

    The two linear maps of a head are multiplied first where that is cheaper than applying both: 4 times for
    phonemes. The gradient reaches both all the same.
    """
    rows = x.flatten(1, -2)  # (K, N, D)
    first = torch.stack([head.projection.weight for head in heads]).mT  # (K, D, P)
    second = torch.stack([head.output.weight for head in heads]).mT  # (K, P, V)
    inner = torch.stack([head.projection.bias for head in heads])[:, None]  # (K, 1, P)
    outer = torch.stack([head.output.bias for head in heads])[:, None]  # (K, 1, V)
    count, (dim, size), outputs = rows.shape[1], first.shape[1:], second.shape[2]
    if (count + size) * dim * outputs < count * size * (dim + outputs):
        logits = torch.baddbmm(inner @ second + outer, rows, first @ second)
    else:
        logits = torch.baddbmm(outer, torch.baddbmm(inner, rows, first), second)
    return logits.reshape(*x.shape[:-1], outputs)


def run_heads(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits (K, B, ..., V) of K heads of one kind and their lengths (B,): each head's own, at once.

    Linear heads are one batched problem. Others run in turn, with the same dropout and masks, so that none depends
    on the others' company.
    """
    if isinstance(heads[0], LinearHead):
        linear = cast("Sequence[LinearHead]", heads)
        x = weigh([head.sum for head in linear], features)
        return project(linear, mean(x, lengths) if isinstance(heads[0], PooledHead) else x), lengths
    seed, found = int(torch.randint(2**31, ())), []
    for head in heads:
        torch.manual_seed(seed)
        logits, frames = head(features, lengths)
        found.append(logits)
    return torch.stack(found), frames


class RecurrentHead(nn.Module):
    """Linear, bidirectional LSTM layers, Linear (SUPERB's ASR head), with SpecAugment on the features in training."""

    def __init__(
        self, num_layers: int, dim: int, outputs: int, config: RecurrentHeadConfig
    ) -> None:
        super().__init__()
        self.spec_augment = config.spec_augment
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.projection = nn.Linear(dim, config.projection)
        sizes = [config.projection] + [2 * config.hidden] * (config.lstm_layers - 1)
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

    def noise(self, batch: int, frames: int) -> list[Tensor]:
        """Return factors (B, T, 2 x hidden) of each layer: the draws of dropout, in its order."""
        ones = self.output.weight.new_ones(batch, frames, self.output.in_features)
        return [self.dropout(ones) for _ in self.forwards]

    def recur(
        self, x: Tensor, lengths: Tensor, dropouts: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and their lengths (B,) of a weighted sum x (B, T, D)."""
        x = self.projection(x)
        for ahead, back, dropout in zip(self.forwards, self.backwards, dropouts, strict=True):
            # each row reversed by its own length: padding is read last, never first, and packing (4 x slower on a CPU
            # at this size) is not needed
            reverse = flip(back(flip(x, lengths))[0], lengths)
            x = dropout(torch.cat([ahead(x)[0], reverse], dim=-1))
        return self.output(x), lengths


def independent(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Return a call for each LSTM head that returns what run_heads() would, its logits and lengths.

    The calls may run in threads: all random numbers are drawn here, those of run_heads().
    """
    recurrent = cast("Sequence[RecurrentHead]", heads)
    seed, sums = int(torch.randint(2**31, ())), []
    for head in recurrent:
        torch.manual_seed(seed)
        sums.append(head.augmented(features, lengths))
    factors = [noise.mul for noise in recurrent[0].noise(*features.shape[:2])]
    return [
        partial(head.recur, x, lengths, factors) for head, x in zip(recurrent, sums, strict=True)
    ]


def serial(head: nn.Module) -> bool:
    """Return whether a head trains on one CPU thread: threads would meet in every step of its LSTM.

    Heads of a sweep then train side by side. A second thread makes one small LSTM faster on a free
    machine, and slower beside other processes: benchmarks/shared_machine.py measures `asr_tiny`,
    whose LSTM has 128 units.
    """
    if not isinstance(head, RecurrentHead) or head.output.weight.device.type != "cpu":
        return False
    return head.output.in_features <= 2 * SMALL


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) with the real frames of each row in reverse order, the padding where it was."""
    time = torch.arange(x.shape[1], device=x.device)[None]
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x.gather(1, index[..., None].expand_as(x))
