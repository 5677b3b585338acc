"""Fine-tuning's side of the Upstream protocol: a model that can be trained further, and rebuilt
from what a file holds.

Shapes: L hidden states, B batch, N samples, T frames, D dimension.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import misfit
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
from mt4ssl_bench.encoders.protocol import Features, Upstream
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.settings import NEVER

LAYER: Bound = (
    "weighted, or the number of a hidden state",
    lambda name: name == "weighted" or name.removeprefix("-").isdecimal(),
)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How an upstream is trained with a head.

    The defaults are wav2vec 2.0's for 10 hours of labelled speech.

    Dropouts and masks are for models of ours: what others built keeps its own dropouts and is not
    masked.
    """

    # the hidden state that the head reads, or "weighted": all of them, as the frozen heads do
    layer: str = "-1"
    freeze_updates: int = 0  # updates in which the head alone learns
    head_lr: float = 1.0  # the head's learning rate, relative to the encoder's
    phases: tuple[float, float, float] = (
        0.1,
        0.4,
        0.5,
    )  # warm-up, hold, decay, as shares of all updates
    final_scale: float = 0.05  # the last update's learning rate, relative to the peak
    batch_seconds: float = 200.0  # audio per batch, padding included
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.1
    layer_drop: float = 0.05
    time_prob: float = 0.65  # masked spans of frames, which become the model's mask embedding
    time_length: int = 10
    # masked spans of dimensions, which become zero over the whole utterance
    channel_prob: float = 0.5
    channel_length: int = 64
    workers: int = field(default=0, metadata=NEVER)  # loader processes; 0: the trainer reads audio
    # with workers=0, hours of decoded audio that are kept in memory (230 MB each)
    cache_hours: float = field(default=1.0, metadata=NEVER)

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "time_length channel_length",
        POSITIVE: "batch_seconds head_lr",
        NOT_NEGATIVE: "freeze_updates final_scale workers cache_hours",
        PROBABILITY: "dropout attention_dropout activation_dropout layer_drop",
        SHARE: "time_prob channel_prob",
        SHARES: "phases",
        LAYER: "layer",
    }


Blueprint = dict[str, Any]


class TunedModel(Protocol):
    """What Trainable.trainable() returns is an nn.Module that is called like this."""

    def __call__(
        self, waveforms: Tensor, lengths: Tensor, generator: np.random.Generator | None = None
    ) -> Features:
        """Return features with gradients of 16 kHz waveforms (B, N).

        A generator draws masks, None masks nothing.
        """
        ...


@runtime_checkable
class Trainable(Protocol):
    """An upstream whose weights can be trained; `blueprint` rebuilds it without them, its "kind"
    says by whom.
    """

    blueprint: dict[str, Any]

    def trainable(self, config: TuneConfig) -> nn.Module:
        """Return a copy to train, a TunedModel.

        What stays fixed (the convolutions) has requires_grad off.
        """
        ...


class Rebuilder(Protocol):
    """Builds the module of a blueprint, its weights still to be loaded."""

    def __call__(self, blueprint: dict[str, Any], config: TuneConfig) -> nn.Module:
        """Return the module; raises BenchError when it cannot be built here."""
        ...


REBUILDERS: Registry[Rebuilder] = Registry(
    "kind of trained upstream",
    {
        "mt4ssl": "mt4ssl_bench.upstream.checkpoints.finetuned:build",
        "s3prl": "mt4ssl_bench.encoders.s3prl_model:rebuild_s3prl",
        "hf": "mt4ssl_bench.encoders.hf_model:rebuild",
    },
)


def check_trainable(upstream: Upstream) -> Trainable:
    """Return `upstream`; raises UpstreamError when it has nothing to train."""
    if not isinstance(upstream, Trainable):
        raise UpstreamError(
            f"upstream '{upstream.name}': cannot be fine-tuned, it offers frozen features only"
        )
    if not upstream.parameters:
        raise UpstreamError(
            f"upstream '{upstream.name}': cannot be fine-tuned, it has no weights; use mode=frozen"
        )
    return upstream


def trainable(upstream: Upstream, config: TuneConfig) -> nn.Module:
    """Return a copy of `upstream` to train; raises UpstreamError when it has nothing to train."""
    return check_trainable(upstream).trainable(config)


def rebuild(blueprint: dict[str, Any], config: TuneConfig, state: dict[str, Tensor]) -> nn.Module:
    """Return the trained module that a file holds.

    Raises UpstreamError when the weights do not fit.
    """
    module = REBUILDERS.get(str(blueprint.get("kind")))(blueprint, config)
    try:
        module.load_state_dict(state)
    except RuntimeError:
        raise UpstreamError(
            f"the stored weights do not fit their model ({misfit(module, state)})"
        ) from None
    return module


# what wav2vec 2.0, HuBERT, WavLM and data2vec call their convolutions
FROZEN_PART = "feature_extractor"


class Foreign(Protocol):
    """An upstream around somebody else's module, `model`."""

    model: nn.Module
    device: str

    def hidden_states(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Return what extract() does, with gradients."""
        ...


class TunedForeign(nn.Module):
    """A model of s3prl's or Hugging Face's, trained further, without masks: they have no common
    place to put them.
    """

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
