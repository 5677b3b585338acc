"""The encoder: positional convolutions and a post-LayerNorm Transformer.

Every layer's outputs are returned.

Shapes: B batch, T frames, D dimension, H heads, Q frames that are asked for.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, PROBABILITY, Bounds
from mt4ssl_bench.upstream.kernels import EPS, attention, dropout


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The post-LayerNorm Transformer with a stack of positional convolutions before it."""

    layers: int = 12
    dim: int = 768
    ffn: int = 3072
    heads: int = 12
    pos_depth: int = 5
    pos_kernel: int = 19
    pos_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "layers dim ffn heads pos_kernel pos_groups",
        NOT_NEGATIVE: "pos_depth",
        PROBABILITY: "dropout attention_dropout activation_dropout layer_drop",
    }


def take(x: Tensor, at: Tensor) -> Tensor:
    """Return the frames `at` (B, Q) of x (B, T, D)."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[2]))


class EncoderOutput(NamedTuple):
    """All that the encoder computes, each (B, T, D)."""

    embedded: Tensor  # the first layer's input: after positional convolutions and LayerNorm
    hidden: list[Tensor]  # each layer's output
    ffn: list[
        Tensor
        # each run layer's feed-forward output, before residual and LayerNorm:
        # what the teacher averages
    ]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, LayerNorm after each residual sum."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.activation_dropout = config.activation_dropout
        self.qkv = nn.Linear(dim, 3 * dim)  # query, key and value projections in one product
        self.out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=EPS)
        self.fc1 = nn.Linear(dim, config.ffn)
        self.fc2 = nn.Linear(config.ffn, dim)
        self.final_norm = nn.LayerNorm(dim, eps=EPS)
        for linear in (self.qkv, self.out, self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, keys: Tensor | None, at: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (layer output, feed-forward output), each (B, T, D), or (B, Q, D) at the frames
        `at` (B, Q) alone.

        `keys` (B, 1, 1, T) is True where attended.
        """
        if at is None:
            q, k, v = self._heads(self.qkv(x), 3)
        else:  # every frame is attended to, but few attend
            dim = x.shape[2]
            k, v = self._heads(F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:]), 2)
            x = take(x, at)
            (q,) = self._heads(F.linear(x, self.qkv.weight[:dim], self.qkv.bias[:dim]), 1)
        a = attention(
            q, k, v, keys, self.attention_dropout if self.training else 0.0
        )  # (B, H, Q, D/H)
        a = self.out(a.transpose(1, 2).reshape(x.shape))
        x = self.attention_norm(x + dropout(a, self.dropout, self.training))
        f = dropout(F.gelu(self.fc1(x)), self.activation_dropout, self.training)
        f = self.fc2(f)
        return self.final_norm(x + dropout(f, self.dropout, self.training)), f

    def _heads(self, projected: Tensor, parts: int) -> Tensor:
        """Return (parts, B, H, T, D/H) of (B, T, parts * D)."""
        batch, frames, dim = projected.shape
        return projected.view(batch, frames, parts, self.heads, dim // parts // self.heads).permute(
            2, 0, 3, 1, 4
        )


class Encoder(nn.Module):
    """Frames (B, T, D) to every layer's hidden states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dim, self.dropout, self.layer_drop = config.dim, config.dropout, config.layer_drop
        # the official code zeroes padded frames before the first positional convolution only, so
        # that an utterance's last frames depend on what it is batched with; False does the same,
        # for comparisons with that code
        self.isolate_padding = True
        # in training, keep the layers' inputs alone and compute the rest again
        self.checkpointing = False
        self.pos_convs = nn.ModuleList(
            nn.Conv1d(
                config.dim,
                config.dim,
                config.pos_kernel,
                padding=config.pos_kernel // 2,
                groups=config.pos_groups,
            )
            for _ in range(config.pos_depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(
        self, x: Tensor, padding: Tensor | None = None, at: Tensor | None = None
    ) -> EncoderOutput:
        """Encode frames (B, T, D); `padding` (B, T) is True at frames that are not real.

        A batch without padded frames should come without a mask: attention is faster then. With
        frame numbers `at` (B, Q) the last layer computes these frames alone, and its outputs are
        (B, Q, D).
        """
        keys = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)
            keys = ~padding[:, None, None, :]
        x = self.norm(x + self.positions(x, padding))
        embedded = x
        x = dropout(x, self.dropout, self.training)
        hidden, ffn = [], []
        again = self.checkpointing and self.training
        for number, layer in enumerate(self.layers, start=1):
            frames = at if number == len(self.layers) else None
            if not (
                self.training and self.layer_drop > 0 and torch.rand(()).item() <= self.layer_drop
            ):
                x, f = (
                    checkpoint(layer, x, keys, frames, use_reentrant=False)
                    if again
                    else layer(x, keys, frames)
                )
                ffn.append(f)
            elif frames is not None:
                x = take(x, frames)
            hidden.append(x)  # a dropped layer is the identity
        return EncoderOutput(embedded, hidden, ffn)

    def positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return the positional convolutions' output (B, T, D), to be added to x."""
        for i, conv in enumerate(self.pos_convs):
            if i and padding is not None and self.isolate_padding:
                x = x.masked_fill(padding[..., None], 0)
            y = conv(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(F.layer_norm(y, y.shape[-1:], eps=EPS))
        return x
