"""Speaker identification: a head that is linear up to its mean over time, so that stored means are
exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, Bounds
from mt4ssl_bench.data.cut import speaker_of
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.heads.pooled import PooledHead
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.features.forward_pass import Crops
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS, Score
from mt4ssl_bench.settings import FROZEN


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig(TaskConfig):
    """The keys of speaker identification."""

    crop_seconds: float = 8.0  # random crops in training; 0: whole utterances
    crops: int = field(default=4, metadata=FROZEN)  # how many per utterance are kept
    test_crop_seconds: float = 0.0  # in validation and test; 0: whole utterances

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "crops",
        NOT_NEGATIVE: "crop_seconds test_crop_seconds",
    }

    def crops_of(self, role: str) -> Crops:
        """See TaskConfig.crops_of."""
        if role == "train":
            return Crops(seconds=self.crop_seconds, count=self.crops, seed=self.seeds[0])
        return Crops(seconds=self.test_crop_seconds, count=1, seed=self.seeds[0])


class Speaker(Task):
    """SUPERB's SID."""

    name: ClassVar[str] = "speaker"
    metric: ClassVar[str] = "acc"
    version: ClassVar[int] = 1
    needs: ClassVar[str] = "speaker"
    Config: ClassVar[type[SpeakerConfig]] = SpeakerConfig
    config: SpeakerConfig
    pooled: ClassVar[bool] = True
    speakers: list[str]

    def fit_units(self, cuts: Sequence[Any]) -> None:
        """Take the table of speakers from the training split."""
        self.speakers = sorted({speaker_of(cut) for cut in cuts})

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return len(self.speakers)

    def state(self) -> dict[str, Any]:
        """See Task.state."""
        return {"speakers": self.speakers}

    def restore(self, state: dict[str, Any]) -> None:
        """See Task.restore."""
        self.speakers = list(state["speakers"])

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a PooledHead."""
        return PooledHead(num_layers, dim, self.outputs, self.config.head)

    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return the cut's speaker."""
        return speaker_of(cut)

    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return the cut's speaker."""
        return [speaker_of(cut)]

    def knows(self, unit: str) -> bool:
        """See Task.knows."""
        return unit in self.speakers

    def target(self, cut: Any) -> Tensor:  # noqa: ANN401
        """Return the speaker's number (1,)."""
        return torch.tensor([self.speakers.index(speaker_of(cut))])

    def loss(
        self,
        logits: Tensor,
        lengths: Tensor,  # noqa: ARG002
        targets: list[Tensor],
    ) -> Tensor:
        """Return the cross entropy of each row (B,)."""
        return F.cross_entropy(
            logits.float(), torch.cat(targets).to(logits.device), reduction="none"
        )

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:  # noqa: ARG002
        """Return the most likely speaker of each row."""
        return [self.speakers[i] for i in logits.argmax(-1).tolist()]

    def measure(self, references: list[str], hypotheses: list[str]) -> float:
        """See Task.measure."""
        return 100.0 * sum(map(str.__eq__, references, hypotheses)) / len(references)

    def score(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """Return the accuracy."""
        return {"acc": METRICS.get("acc").score(answers)}
