"""The encoder: positional convolutions and a post-LayerNorm Transformer.

Shapes: B batch, T frames, D dimension, H heads, Q queried frames.
"""

import logging
import os
import shutil
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, PROBABILITY, Bounds
from mt4ssl_bench.upstream.kernels import (
    EPS,
    Keys,
    Spans,
    attention,
    compiled,
    dropout,
    flash_runs,
    norm_gelu,
)

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and dropouts of the encoder; `pos_*` are of its positional convolutions."""

    layers: int = 12  # number of Transformer layers
    dim: int = 768  # dimension of the hidden states
    ffn: int = 3072  # inner dimension of the feed-forward blocks
    heads: int = 12  # attention heads; they divide dim
    pos_depth: int = 5  # number of positional convolutions
    pos_kernel: int = 19  # their width in frames, odd
    pos_groups: int = 16  # their groups; they divide dim
    dropout: float = 0.1  # probability, of the input and after attention and feed-forward
    attention_dropout: float = 0.1  # probability, of the attention weights
    activation_dropout: float = 0.0  # probability, inside the feed-forward blocks
    layer_drop: float = 0.05  # probability that a whole layer is skipped in an update

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "layers dim ffn heads pos_kernel pos_groups",
        NOT_NEGATIVE: "pos_depth",
        PROBABILITY: "dropout attention_dropout activation_dropout layer_drop",
    }


# encoder.dim from which encoders are compiled on a GPU where a recipe does not say. Of the narrower
# ones in docs/clusters.md, mt4ssl_fbank gained by it and two did not.
WIDE = 512


def take(x: Tensor, queries: Tensor) -> Tensor:
    """Return the frames `queries` (B, Q) of x (B, T, D)."""
    return x.gather(1, queries[..., None].expand(-1, -1, x.shape[2]))


class EncoderOutput(NamedTuple):
    """The encoder's hidden states, each (B, T, D)."""

    embedded: Tensor  # the first layer's input: after positional convolutions and LayerNorm
    hidden: list[Tensor]  # each layer's output; a dropped layer is the identity
    ffn: list[Tensor]  # each run layer's feed-forward output, before residual and LayerNorm


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, with a LayerNorm after each residual sum."""

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
        self, x: Tensor, keys: Keys, queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output and its feed-forward output, each (B, T, D).

        Args:
            x: (B, T, D).
            keys: Frames that are attended to; see attention().
            queries: Frames (B, Q) to compute, so that outputs are (B, Q, D); None for all.
        """
        if queries is None:
            q, k, v = self._heads(self.qkv(x), 3)
        else:  # all frames are attended to, few attend
            dim = x.shape[2]
            k, v = self._heads(F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:]), 2)
            x = take(x, queries)
            (q,) = self._heads(F.linear(x, self.qkv.weight[:dim], self.qkv.bias[:dim]), 1)
        a = attention(q, k, v, keys, self.attention_dropout if self.training else 0.0)
        a = self.out(a.reshape(x.shape))
        x = self.attention_norm(x + dropout(a, self.dropout, self.training))
        f = dropout(F.gelu(self.fc1(x)), self.activation_dropout, self.training)
        f = self.fc2(f)
        x = self.final_norm(x + dropout(f, self.dropout, self.training))
        return x, f.detach()  # a target, never trained on

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Return the parts of x (B, T, parts * D), each (B, T, H, D / H)."""
        return x.view(*x.shape[:2], parts, self.heads, -1).unbind(2)


class Encoder(nn.Module):
    """Frames (B, T, D) to the hidden states of all layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dim, self.dropout, self.layer_drop = config.dim, config.dropout, config.layer_drop
        # zero padded frames before each positional convolution, so that an utterance does not
        # depend on its batch; the official code (False, for comparisons) does so before the first
        self.isolate_padding = True
        self.checkpointing = False  # in training, store only the layers' inputs
        self.heads = config.heads
        self.compiled = False  # one compiled function runs each layer
        self.fused = False  # LayerNorm and GELU as one compiled kernel
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
        self, x: Tensor, padding: Tensor | None = None, queries: Tensor | None = None
    ) -> EncoderOutput:
        """Return the hidden states of frames.

        Args:
            x: (B, T, D).
            padding: (B, T), True at padded frames; None if there are none, which is faster.
            queries: Frames (B, Q) that the last layer computes, so that its outputs are (B, Q, D).
        """
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)
        keys = self._keys(x, padding)
        embedded = self.norm(x + self.positions(x, padding))
        x = dropout(embedded, self.dropout, self.training)
        run = compiled(EncoderLayer.forward) if self.compiled else EncoderLayer.__call__
        hidden, ffn = [], []
        for layer in self.layers:
            at = queries if layer is self.layers[-1] else None
            if at is not None and isinstance(keys, Spans):
                assert padding is not None, "without padding, attention needs no spans"
                keys = Spans.of(padding, at.shape[1])
            if self.training and self.layer_drop > 0 and torch.rand(()).item() <= self.layer_drop:
                x = x if at is None else take(x, at)
            else:
                if self.checkpointing and self.training:
                    x, f = checkpoint(run, layer, x, keys, at, use_reentrant=False)
                else:
                    x, f = run(layer, x, keys, at)
                ffn.append(f)
            hidden.append(x)
        return EncoderOutput(embedded, hidden, ffn)

    def _keys(self, x: Tensor, padding: Tensor | None) -> Keys:
        if padding is None:
            return None
        if flash_runs(x, x.shape[2] // self.heads):
            return Spans.of(padding)
        return ~padding[:, None, None, :]

    def positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return the positional convolutions' output (B, T, D), to be added to x."""
        activation = compiled(norm_gelu) if self.fused else norm_gelu
        for i, conv in enumerate(self.pos_convs):
            if i and padding is not None and self.isolate_padding:
                x = x.masked_fill(padding[..., None], 0)
            x = activation(conv(x.transpose(1, 2)).transpose(1, 2))
        return x


def pays(config: EncoderConfig, device: str) -> bool:
    """Return whether an encoder is compiled on a device unless a recipe says otherwise."""
    return device.startswith("cuda") and config.dim >= WIDE and _compiles()


@cache
def _compiles() -> bool:
    """Return whether torch.compile() can work here; if not, the log says so once."""
    missing = lacking("cuda")
    if missing:
        LOGGER.warning(
            "the encoder is not compiled, which is slower: torch.compile() needs %s", missing
        )
    return not missing


def lacking(device: str) -> str:
    """Return what this machine lacks to compile for a device, or "".

    Small container images have no compiler.
    """
    cuda = device.startswith("cuda")
    variable, names = ("CC", ("gcc", "clang")) if cuda else ("CXX", ("g++", "clang++", "cl"))
    if not (os.environ.get(variable) or any(map(shutil.which, names))):
        return f"a {'C' if cuda else 'C++'} compiler (install {names[0]}, or set {variable})"
    schemes = {sysconfig.get_default_scheme(), "posix_prefix"}  # Debian's own, and Python's
    folders = [sysconfig.get_path("include", scheme) for scheme in schemes]
    if not any(Path(folder, "Python.h").exists() for folder in folders):
        return "Python's headers (install python3-dev)"
    return ""


def compile_layers(model: nn.Module, *, layers: bool = True, fused: bool) -> None:
    """Compile the encoder layers of a model; one layer's code serves all of them, and any length.

    A layer is traced once per form: student or teacher, training or not, with padding or without,
    all frames or masked ones. Beyond its limit, torch would not compile it.

    Args:
        model: Any that has an encoder.
        layers: False: run the layers as they are again.
        fused: Compile the elementwise operations of its other parts, too: for a GPU.
    """
    if layers:
        # where torch documents them
        torch._dynamo.config.recompile_limit = 64  # noqa: SLF001
        # each layer is a graph of its own, which DDP would cut again at the size of its buckets
        torch._dynamo.config.optimize_ddp = False  # noqa: SLF001
    for module in model.modules():
        if isinstance(module, Encoder):
            module.compiled = layers
        if hasattr(module, "fused"):
            module.fused = fused  # type: ignore[assignment]
