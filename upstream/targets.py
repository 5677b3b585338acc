"""Target extractors: each has its own settings, head, targets, loss and update.

Shapes: B batch, T frames, M masked frames, D dimension, V clusters.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, SHARE, Bounds
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.upstream.encoder import Encoder
from mt4ssl_bench.upstream.kernels import compiled, normalize_over_time


class TargetConfig(Protocol):
    """Settings of an extractor: a frozen dataclass with a default for each field."""

    @property
    def weight(self) -> float:
        """Factor of the loss in the total; 0 leaves the extractor out."""


class TargetExtractor(nn.Module, ABC):
    """Targets for every frame, and a loss on the masked ones.

    Attributes:
        name: Section targets.<name> of a recipe, and prefix of the values in the log.
        Config: Dataclass of the section; may declare BOUNDS.
        reads_labels: Whether targets() needs the labels of targets.offline.
        monitors: Scalars of the last loss(); a small target_var or pred_var stops the run.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TargetConfig]]
    reads_labels: ClassVar[bool] = False

    def __init__(self, config: TargetConfig, encoder: Encoder) -> None:
        super().__init__()
        self.weight = config.weight
        self.monitors: dict[str, Tensor] = {}

    @abstractmethod
    def targets(self, labels: Tensor | None, frames: Tensor, padding: Tensor | None) -> Tensor:
        """Return targets (B, T, ...) without gradient, of labels (B, T) or frames (B, T, D)."""

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of the student's output (M, D) and the targets (M, ...) there."""

    def update(self, step: int) -> dict[str, float]:
        """Update the extractor after optimizer update `step` (from 1); return values to log."""
        return {}

    def weight_after(self, step: int) -> float:
        """Return the factor of the loss in the total after `step` updates."""
        return self.weight


class OfflineTargets(TargetExtractor):
    """Off-TE: cluster ids made before training, a linear head and cross entropy."""

    name = "offline"
    Config = OfflineConfig
    reads_labels = True

    def __init__(self, config: OfflineConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.head = nn.Linear(encoder.dim, config.clusters)

    def targets(self, labels: Tensor | None, frames: Tensor, padding: Tensor | None) -> Tensor:
        """Return the labels (B, T)."""
        assert labels is not None, "batches have labels wherever an extractor reads them"
        return labels

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy in nats."""
        logits = self.head(hidden).float()  # (M, V)
        self.monitors = {"accuracy": (logits.detach().argmax(-1) == targets).float().mean()}
        return F.cross_entropy(logits, targets, reduction="sum")


class OnlineTargets(TargetExtractor):
    """On-TE: an EMA teacher's layers, averaged, a linear head and squared error (as data2vec).

    The teacher is an encoder; it reads the frames of the student's own front end, unmasked.
    """

    name = "online"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of the EMA teacher; its decay rises linearly from ema_start to ema_end."""

        weight: float = 1.0  # factor of this loss; 0 leaves the extractor out
        top_k: int = 8  # number of the last layers that are averaged
        ema_start: float = 0.999  # decay of the teacher at the first update
        ema_end: float = 0.9999  # decay from ema_steps on
        ema_steps: int = 30_000  # updates over which the decay rises
        # until so many updates are made, no loss, and a teacher that is a copy of the student; 0 as
        # published
        from_update: int = 0

        BOUNDS: ClassVar[Bounds] = {
            AT_LEAST_1: "top_k ema_steps",
            SHARE: "ema_start ema_end",
            NOT_NEGATIVE: "from_update",
        }

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        if config.top_k > (layers := len(encoder.layers)):
            raise ConfigError(f"targets.online.top_k={config.top_k}: encoder.layers is {layers}")
        self.config = config
        self.head = nn.Linear(encoder.dim, encoder.dim)
        self.teacher = copy.deepcopy(encoder).requires_grad_(requires_grad=False).eval()
        self.fused = False  # normalization and average as one compiled kernel
        self._student = (encoder,)  # in a tuple, so that it is no submodule of this one

    # torch's signature
    def train(self, mode: bool = True) -> "OnlineTargets":  # noqa: FBT001, FBT002
        """Set the head's mode; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(self, labels: Tensor | None, frames: Tensor, padding: Tensor | None) -> Tensor:
        """Return the teacher's top K feed-forward outputs, normalized over time and averaged."""
        outputs = self.teacher(frames.detach(), padding).ffn[-self.config.top_k :]
        average = compiled(average_over_time) if self.fused else average_over_time
        return average(outputs, padding)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error, summed over frames and dimensions, over sqrt(D)."""
        prediction = self.head(hidden).float()
        self.monitors = {"target_var": spread(targets), "pred_var": spread(prediction.detach())}
        scale: float = prediction.shape[-1] ** -0.5
        return scale * F.mse_loss(prediction, targets, reduction="sum")

    def decay(self, step: int) -> float:
        """Return the EMA decay after update `step`: 0 until the first update with a loss."""
        c = self.config
        step -= c.from_update
        if step <= 0 < c.from_update:
            return 0.0
        return c.ema_end - (c.ema_end - c.ema_start) * (1 - min(step / c.ema_steps, 1.0))

    def weight_after(self, step: int) -> float:
        """See TargetExtractor.weight_after."""
        return self.weight if step >= self.config.from_update else 0.0

    @torch.no_grad()
    def update(self, step: int) -> dict[str, float]:
        """Move the teacher towards the student; return the decay."""
        decay, student = self.decay(step), self._student[0]
        parameters = tuple(self.teacher.parameters()), tuple(student.parameters())
        torch._foreach_lerp_(*parameters, 1 - decay)
        # ema_layers_only: data2vec found a shared positional encoder slightly more accurate
        # (Baevski et al. 2022, section 3.2)
        self.teacher.pos_convs.load_state_dict(student.pos_convs.state_dict())
        return {"ema_decay": decay}


def spread(x: Tensor) -> Tensor:
    """Return the standard deviation of x (M, D) over frames, averaged: near 0 after a collapse."""
    return (x.float().var(dim=0) + 1e-6).sqrt().mean()


def average_over_time(outputs: list[Tensor], padding: Tensor | None) -> Tensor:
    """Return the mean in fp32 of outputs (B, T, D), each normalized over time."""
    total = torch.zeros_like(outputs[0], dtype=torch.float32)
    for output in outputs:
        total += normalize_over_time(output.float(), padding)
    return total / len(outputs)


TARGETS: Registry[type[TargetExtractor]] = Registry(
    "target extractor",
    {
        "offline": f"{__name__}:OfflineTargets",
        "online": f"{__name__}:OnlineTargets",
    },
    group="mt4ssl_bench.targets",
    base=TargetExtractor,
)
