"""Where training targets come from: each extractor owns its head, its target, its loss and its
update.

Shapes: B batch, T frames, M masked frames, D dimension, V clusters.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.upstream.config import OnlineConfig
from mt4ssl_bench.upstream.encoder import Encoder
from mt4ssl_bench.upstream.kernels import EPS


class TargetExtractor(nn.Module, ABC):
    """Targets for every frame and a loss on the masked ones.

    A third kind of target is one subclass.

    Attributes:
        weight: factor of its loss in the total.
        monitors: detached scalars of the last loss() call, for the log.
    """

    weight: float
    monitors: dict[str, Tensor]

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.monitors = {}

    @abstractmethod
    def targets(self, labels: Tensor | None, frames: Tensor, padding: Tensor | None) -> Tensor:
        """Return targets (B, T) or (B, T, D) without gradient, from labels (B, T) or from unmasked
        frames (B, T, D).
        """

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the loss summed over masked frames, from the student's output (M, D) and targets
        (M,) or (M, D).
        """

    def update(self, step: int) -> dict[str, float]:  # noqa: ARG002 - only some extractors move
        """Move after optimiser update `step` (counted from 1); returns what the log should say."""
        return {}


class OfflineTargets(TargetExtractor):
    """Off-TE: cluster ids made before training, a linear head and cross entropy."""

    def __init__(self, config: OfflineConfig, dim: int) -> None:
        super().__init__(config.weight)
        self.head = nn.Linear(dim, config.clusters)

    def targets(
        self,
        labels: Tensor | None,
        frames: Tensor,  # noqa: ARG002
        padding: Tensor | None,  # noqa: ARG002
    ) -> Tensor:
        """Return the labels (B, T) as they are."""
        assert labels is not None, (
            "the data pipeline joins labels whenever this extractor is in the model"
        )
        return labels

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross entropy in nats."""
        logits = self.head(hidden).float()  # (M, V)
        self.monitors = {"accuracy": (logits.detach().argmax(-1) == targets).float().mean()}
        return F.cross_entropy(logits, targets, reduction="sum")


class OnlineTargets(TargetExtractor):
    """On-TE: an exponential moving average of the student's encoder, a linear head and squared
    error.

    The teacher is the encoder alone; it reads the student's own front end, unmasked. Its positional
    convolutions are copied from the student, everything else is averaged (MT4SSL's
    ema_transformer_only, ema_layers_only).
    """

    def __init__(self, config: OnlineConfig, encoder: Encoder, dim: int) -> None:
        super().__init__(config.weight)
        self.config = config
        self.head = nn.Linear(dim, dim)
        self.teacher = copy.deepcopy(encoder).requires_grad_(requires_grad=False).eval()
        self._student = (encoder,)  # a tuple, so that the student is not registered a second time

    # torch's signature
    def train(self, mode: bool = True) -> "OnlineTargets":  # noqa: FBT001, FBT002
        """Switch the head's mode; the teacher never leaves evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(
        self,
        labels: Tensor | None,  # noqa: ARG002
        frames: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """Return the mean of the teacher's top K feed-forward outputs, each normalised over time,
        in fp32 (B, T, D).
        """
        outputs = self.teacher(frames.detach(), padding).ffn[-self.config.top_k :]
        total = sum(normalize_over_time(f.float(), padding) for f in outputs)
        assert isinstance(total, Tensor)
        return total / len(outputs)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error summed over frames and dimensions, over sqrt(D)."""
        prediction = self.head(hidden).float()
        self.monitors = {"target_var": spread(targets), "pred_var": spread(prediction.detach())}
        scale: float = prediction.shape[-1] ** -0.5
        return scale * F.mse_loss(prediction, targets, reduction="sum")

    def decay(self, step: int) -> float:
        """Return the EMA decay used after update `step`: linear from start to end over ema_steps,
        then constant.
        """
        c = self.config
        return c.ema_end - (c.ema_end - c.ema_start) * (1 - min(step / c.ema_steps, 1.0))

    @torch.no_grad()
    def update(self, step: int) -> dict[str, float]:
        """Move the teacher towards the student; returns the decay used."""
        decay, student = self.decay(step), dict(self._student[0].named_parameters())
        copied = [
            (t, student[n])
            for n, t in self.teacher.named_parameters()
            if n.startswith("pos_convs.")
        ]
        averaged = [
            (t, student[n])
            for n, t in self.teacher.named_parameters()
            if not n.startswith("pos_convs.")
        ]
        for teacher, current in copied:
            teacher.copy_(current)
        torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1 - decay)
        return {"ema_decay": decay}


def normalize_over_time(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return x (B, T, D) with mean 0 and variance 1 over the real frames of each utterance and
    channel.
    """
    if padding is None:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    else:
        real = ~padding[..., None]
        count = real.sum(1, keepdim=True).clamp(min=1)
        mean = (x * real).sum(1, keepdim=True) / count
        variance = (((x - mean) * real) ** 2).sum(1, keepdim=True) / count
    return (x - mean) * torch.rsqrt(variance + EPS)


def spread(x: Tensor) -> Tensor:
    """Return the mean over dimensions of the standard deviation over frames of x (M, D): 0 means
    collapse.
    """
    return (x.float().var(dim=0) + 1e-6).sqrt().mean()


def build_extractors(
    offline: OfflineConfig, online: OnlineConfig, encoder: Encoder, dim: int
) -> Mapping[str, TargetExtractor]:
    """Return the extractors whose weight is not 0, by name."""
    built: dict[str, TargetExtractor] = {}
    if offline.weight:
        built["offline"] = OfflineTargets(offline, dim)
    if online.weight:
        built["online"] = OnlineTargets(online, encoder, dim)
    return built
