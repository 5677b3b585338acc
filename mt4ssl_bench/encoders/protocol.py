"""The Upstream protocol, all that downstream knows of a model, and the ways to get one by name.

Shapes: L hidden states (encoder input and every layer), B batch, N samples, T frames, D dimension.
"""

import logging
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mt4ssl_bench.registry import Registry

LOGGER = logging.getLogger(__name__)


class Features(NamedTuple):
    """What an upstream makes of a batch: `layers` (L, B, T, D) and the real frames `lengths`
    (B,).
    """

    layers: Tensor
    lengths: Tensor


@runtime_checkable
class Upstream(Protocol):
    """A frozen model; `stride` is in samples per frame.

    `fingerprint` identifies the model: it changes whenever the features can. Two attributes are
    optional, and only needed to find results of earlier releases, whose fingerprints were digests
    by another scheme (see identity.py):

    * `former`, a tuple of str: earlier fingerprints that determined this very model; records,
      features and labels under them are used.
    * `insufficient`, a tuple of str: earlier fingerprints that this model shared with others;
      what is stored under them is named in the log and computed again.
    """

    name: str
    num_layers: int
    dim: int
    stride: int
    fingerprint: str
    parameters: int

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return the features of zero-padded 16 kHz waveforms (B, N) of `lengths` (B,), without
        gradient.
        """
        ...


class Loader(Protocol):
    """Builds an upstream from what stands after its prefix."""

    def __call__(self, argument: str, *, device: str) -> Upstream:
        """Return the upstream; raises BenchError when it cannot be built."""
        ...


# how a name is read: "prefix:argument", a path to one of our runs, else an s3prl name
LOADERS: Registry[Loader] = Registry(
    "kind of upstream",
    {
        "checkpoint": "mt4ssl_bench.upstream.checkpoints.encoder_adapter:load_checkpoint",
        "mt4ssl": "mt4ssl_bench.upstream.expert:load_default",
        # the names that register() adds to s3prl's hub
        "mt4ssl_local": "mt4ssl_bench.upstream.checkpoints.encoder_adapter:load_checkpoint",
        "mt4ssl_url": "mt4ssl_bench.upstream.expert:load_custom",
        "mt4ssl_custom": "mt4ssl_bench.upstream.expert:load_custom",
        "hf": "mt4ssl_bench.encoders.hf_model:load_huggingface",
        "random": "mt4ssl_bench.upstream.checkpoints.encoder_adapter:load_random",
        "file": "mt4ssl_bench.encoders.user_file:load_file",
        "s3prl": "mt4ssl_bench.encoders.s3prl_model:load_s3prl",
    },
)
HUGE = torch.finfo(torch.float32).max ** 0.5  # 1.8e19: a larger value's square is infinite in fp32


def broken_layers(values: Tensor) -> str:
    """Return which hidden states of (L, T, D) are NaN, infinite or HUGE, and the largest finite
    value.

    Returns:
        For example "hidden state 3 of 0-12: 64 of 640 values are NaN or infinite, the largest
        finite one is 2.1"; an empty text where none is broken.
    """
    texts = []
    for layer, rows in enumerate(values.float()):
        finite = rows[torch.isfinite(rows)]
        lost, peak = rows.numel() - len(finite), float(finite.abs().max()) if len(finite) else 0.0
        if lost or peak > HUGE:
            parts = [f"{lost} of {rows.numel()} values are NaN or infinite"] if lost else []
            parts += [f"the largest finite one is {peak:.3g}"] if len(finite) else []
            texts.append(f"hidden state {layer} of 0-{len(values) - 1}: {', '.join(parts)}")
    more = f" ({len(texts) - 1} more hidden states are broken)" if len(texts) > 1 else ""
    return (texts or [""])[0] + more  # later ones read the first
