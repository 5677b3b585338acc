"""An upstream and a linear head in one module, which fine-tuning trains.

Shapes: B batch, N samples, T frames, L hidden states, D dimension, V outputs.
"""

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.downstream.heads.linear import mean
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum, layer_weights
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.errors import ConfigError


class TunedHead(nn.Module):
    """Linear on one hidden state or on their weighted sum; pooled tasks average frames first."""

    def __init__(
        self, num_layers: int, dim: int, outputs: int, config: TuneConfig, *, pooled: bool
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.layer = None if config.layer == "weighted" else _layer(config.layer, num_layers)
        self.num_layers = num_layers
        self.sum = WeightedSum(num_layers, layer_norm=False) if self.layer is None else None
        self.output = nn.Linear(dim, outputs)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def layer_weights(self) -> list[float]:
        """The weight of each hidden state."""
        return layer_weights(self) or [float(i == self.layer) for i in range(self.num_layers)]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V), or (B, V) if pooled, of features (L, B, T, D); and lengths."""
        x = features[self.layer] if self.sum is None else self.sum(features)  # (B, T, D)
        return self.output(mean(x[None], lengths)[0] if self.pooled else x), lengths


class Tuned(nn.Module):
    """The upstream and its head."""

    def __init__(self, encoder: nn.Module, head: TunedHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        generator: np.random.Generator | None = None,
        *,
        frozen: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and lengths of 16 kHz waveforms (B, N) of `lengths` samples (B,).

        A generator draws masks; `frozen` computes no gradient of the upstream.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features: Features = self.encoder(waveforms, lengths, generator)
        layers = features.layers
        logits, frame_counts = self.head(layers, features.lengths.cpu())
        return logits, frame_counts


def _layer(name: str, num_layers: int) -> int:
    """Return the number of a hidden state, counted from the first."""
    if name.lstrip("-").isdecimal() and -num_layers <= int(name) < num_layers:
        return int(name) % num_layers
    raise ConfigError(
        f"tune.layer={name}: expected weighted, or a number from {-num_layers} to {num_layers - 1}"
    )
