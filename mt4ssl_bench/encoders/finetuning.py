"""The Trainable protocol: upstreams that can be fine-tuned, and rebuilt from a blueprint.

Shapes: L hidden states, B batch, N samples, T frames, D dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from mt4ssl_bench.config import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    SHARES,
    Bound,
    Bounds,
)
from mt4ssl_bench.encoders.protocol import Features
from mt4ssl_bench.settings import NEVER, Json

LAYER: Bound = (
    "weighted, or the number of a hidden state",
    lambda name: name == "weighted" or name.removeprefix("-").isdecimal(),
)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How an upstream is trained with a head.

    The defaults are wav2vec 2.0's for 10 hours of labelled speech. Dropouts and masks apply to
    MT4SSL models only: s3prl's and Hugging Face's keep their own dropouts and are not masked.
    """

    # hidden state that the head reads; "weighted": the weighted sum of all, as frozen heads do
    layer: str = "-1"
    freeze_updates: int = 0  # updates at the start in which only the head is trained
    head_lr: float = 1.0  # factor of the head's learning rate, relative to the encoder's
    phases: tuple[float, float, float] = (0.1, 0.4, 0.5)  # warm-up, hold, decay: shares of steps
    final_scale: float = 0.05  # the last update's learning rate, relative to the peak
    batch_seconds: float = 200.0  # seconds of audio per batch, padding included
    dropout: float = 0.0  # probability, of the input and after attention and feed-forward
    attention_dropout: float = 0.0  # probability, of the attention weights
    activation_dropout: float = 0.1  # probability, inside the feed-forward blocks
    layer_drop: float = 0.05  # probability that a whole layer is skipped in an update
    time_prob: float = 0.65  # masked share of frames, replaced by the model's mask embedding
    time_length: int = 10  # length of a masked span, in frames
    channel_prob: float = 0.5  # masked share of dimensions, zero over the whole utterance
    channel_length: int = 64  # length of a masked span, in dimensions
    workers: int = field(default=0, metadata=NEVER)  # loader processes; 0: the trainer reads audio
    # with workers=0, hours of decoded audio that are kept in memory (230 MB each)
    cache_hours: float = field(default=1.0, metadata=NEVER)

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "time_length channel_length",
        POSITIVE: "batch_seconds head_lr final_scale",
        NOT_NEGATIVE: "freeze_updates workers cache_hours",
        PROBABILITY: "dropout attention_dropout activation_dropout layer_drop",
        SHARE: "time_prob channel_prob",
        SHARES: "phases",
        LAYER: "layer",
    }


Blueprint = Mapping[str, Json]  # "kind": whose rebuild() takes it; the rest is that kind's


class TunedModel(Protocol):
    """How the nn.Module that Trainable.trainable() returns is called."""

    def __call__(
        self, waveforms: Tensor, lengths: Tensor, generator: np.random.Generator | None = None
    ) -> Features:
        """Return features of 16 kHz waveforms (B, N), with gradients; a generator draws masks."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """An upstream whose weights can be trained."""

    @property
    def blueprint(self) -> Blueprint:
        """What rebuild() of its kind makes the module from, weights excepted."""
        ...

    def trainable(self, config: TuneConfig) -> nn.Module:
        """Return a copy to train, a TunedModel; what stays fixed (convolutions) needs no grad."""
        ...


# what wav2vec 2.0, HuBERT, WavLM and data2vec call their convolutions
FROZEN_PART = "feature_extractor"


class Foreign(Protocol):
    """An upstream around another toolkit's module, `model`."""

    device: str

    @property
    def model(self) -> nn.Module:
        """The module."""
        ...

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        ...


class TunedForeign(nn.Module):
    """A model of s3prl or Hugging Face to train, without masks: it has no common place for them."""

    def __init__(self, upstream: Foreign) -> None:
        super().__init__()
        self.upstream = upstream
        self.model: nn.Module = upstream.model.requires_grad_(requires_grad=True)
        for name, parameter in self.model.named_parameters():
            if FROZEN_PART in name.split("."):
                parameter.requires_grad = False

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        generator: np.random.Generator | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> Features:
        """See TunedModel."""
        self.upstream.device = str(next(self.model.parameters()).device)
        return self.upstream.hidden_states(waveforms, lengths)
