"""Speaker verification: x-vector head, AM-softmax over training speakers, cosines of trials.

Shapes: B batch, T frames, E embedding, S training speakers.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Bounds
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut, speaker_of
from mt4ssl_bench.data.effects import Effect, Gain, TrimSilence, lengths_after
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.heads.trials import (
    Trial,
    make_trials,
    read_trials,
    usable_trials,
)
from mt4ssl_bench.downstream.heads.x_vector import NEEDED, XVectorConfig, XVectorHead
from mt4ssl_bench.downstream.job import named
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.features.crops import FreshCrop
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.metrics.trials import NONTARGET, SPEAKERS, TARGET
from mt4ssl_bench.settings import FROZEN, Json
from mt4ssl_bench.training.optim import OptimConfig

LISTS = {"valid": "valid_trials", "test": "trials"}
UNSCORED = "trials_without_frames"  # in counts
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerificationConfig(TaskConfig):
    """The keys of speaker verification."""

    head: XVectorConfig = field(default_factory=XVectorConfig, metadata=FROZEN)
    margin: float = 0.4  # of AM-softmax, subtracted from the cosine of the right speaker
    scale: float = 30.0  # of AM-softmax, factor of the cosines
    weight_decay: float = 0.01  # of AdamW, on every weight
    # length of the training crops, drawn anew in each epoch; 0: whole utterances
    crop_seconds: float = 8.0
    # training utterances that are not longer than this without their pauses are left out
    min_seconds: float = 2.0
    valid_trials: int = 20_000  # number of trials made of valid, if the corpus has no such list

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "valid_trials",
        POSITIVE: "scale",
        NOT_NEGATIVE: "margin weight_decay crop_seconds min_seconds",
    }

    def crops_of(self, role: str) -> FreshCrop | None:
        """See TaskConfig.crops_of."""
        if role != "train" or not self.crop_seconds:
            return None
        return FreshCrop(seconds=self.crop_seconds, seed=self.seeds[0])


class Verification(Task):
    """SUPERB's ASV: equal error rate of trials between speakers who are not in training."""

    name: ClassVar[str] = "verification"
    superb: ClassVar[str] = "ASV"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("eer", "mindcf", "eer_by_rule")
    looks: ClassVar[int] = 10
    reads: ClassVar[tuple[str, ...]] = ("speaker", "list:trials")
    effects: ClassVar[tuple[Effect, ...]] = (Gain(-3.0), TrimSilence())
    modes: ClassVar[tuple[str, ...]] = ("frozen",)
    Config: ClassVar[type[VerificationConfig]] = VerificationConfig
    config: VerificationConfig
    speakers: list[str]

    def __init__(self, config: VerificationConfig) -> None:
        super().__init__(config)
        self.trials: list[Trial] = []  # of valid and test
        self._warned: list[Sequence[str]] = []  # of these utterances

    def unlearnable(self, cuts: Iterable[Cut]) -> str:
        """See Task.unlearnable."""
        few = len({speaker_of(cut) for cut in cuts}) < 2
        return "needs two speakers, and has only one in the utterances" if few else ""

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units: the training speakers."""
        self.speakers = sorted({speaker_of(cut) for cut in cuts})

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return len(self.speakers)

    def state(self) -> dict[str, Json]:
        """See Task.state."""
        return {"speakers": cast("list[Json]", self.speakers)}

    def restore(self, state: Mapping[str, Json]) -> None:
        """See Task.restore."""
        self.speakers = list(cast("list[str]", state["speakers"]))

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return an XVectorHead."""
        return XVectorHead(num_layers, dim, self.outputs, self.config.head)

    def optim(self) -> OptimConfig:
        """See Task.optim: AdamW, its decay on every weight."""
        return replace(super().optim(), weight_decay=self.config.weight_decay)

    def reference(self, cut: Cut) -> str:
        """Return the cut's speaker."""
        return speaker_of(cut)

    def target(self, cut: Cut) -> Tensor:
        """Return the number of the cut's speaker (1,)."""
        return torch.tensor([self.speakers.index(speaker_of(cut))])

    def units_in(self, cut: Cut) -> list[str]:
        """Return the cut's speaker."""
        return [speaker_of(cut)]

    def knows(self, unit: str) -> bool:  # noqa: ARG002
        """See Task.knows: speakers of trials need not occur in training."""
        return True

    def frames_needed(self, cut: Cut) -> int:  # noqa: ARG002
        """See Task.frames_needed."""
        return NEEDED

    def take(self, cuts: Mapping[str, Sequence[Cut]]) -> Mapping[str, Sequence[Cut]]:
        """See BaseTask.take: the trials of valid and test."""
        heard = {speaker_of(cut) for cut in cuts["train"]}
        self.trials = []
        for role, name in LISTS.items():
            speakers = {cut.id: speaker_of(cut) for cut in cuts[role]}
            if name in self.lists:
                where = f"task '{self.name}', list '{name}'"
                trials = read_trials(self.lists[name], where)
            else:
                where = f"task '{self.name}', trials made of {role}"
                trials = make_trials(speakers, self.config.valid_trials)
            usable = usable_trials(trials, speakers, where, heard)
            self.trials += usable
            self.counts[f"{role}_trials"] = len(usable)
            if len(usable) < len(trials):
                self.counts[f"{role}_trials_left_out"] = len(trials) - len(usable)
        return cuts

    def usable(self, cuts: Sequence[Cut]) -> list[Cut]:
        """See Task.usable: longer than min_seconds and NEEDED frames, without pauses."""
        least = max(self.config.min_seconds * audio.RATE, NEEDED * self.stride)
        lengths = lengths_after(self.effects, cuts)
        return [cut for cut, length in zip(cuts, lengths, strict=True) if length > least]

    def loss(
        self,
        logits: Tensor,
        lengths: Tensor,  # noqa: ARG002 - cosines have none
        targets: list[Tensor],
    ) -> Tensor:
        """Return AM-softmax of cosines (B, S): cross entropy of scale * (cosine - margin)."""
        ids = torch.cat(targets).to(logits.device)
        margins = self.config.margin * F.one_hot(ids, logits.shape[1])
        return F.cross_entropy(
            self.config.scale * (logits.float() - margins), ids, reduction="none"
        )

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return embeddings (B, E) as text; "" for a row of fewer than NEEDED frames."""
        rows = logits.detach().float().cpu().numpy().astype("<f4")
        return [
            row.tobytes().hex() if frames >= NEEDED else ""
            for row, frames in zip(rows, lengths.tolist(), strict=True)
        ]

    def answers(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> list[Answer]:
        """Return an answer for each trial between the cuts: its score is their cosine.

        Trials of utterances with too few frames are left out, and counted.
        """
        speakers = {cut.id: speaker_of(cut) for cut in cuts}
        texts = {cut.id: text for cut, text in zip(cuts, hypotheses, strict=True) if text}
        rows = np.array([np.frombuffer(bytes.fromhex(text), "<f4") for text in texts.values()])
        unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True).clip(1e-12)
        vectors = dict(zip(texts, unit, strict=True))
        own = [each for each in self.trials if each.enrol in speakers and each.test in speakers]
        scored = [each for each in own if each.enrol in vectors and each.test in vectors]
        self._count_unscored(len(own) - len(scored), sorted(speakers.keys() - texts.keys()))
        answers: list[Answer] = []
        seen = Counter[str]()
        for target, enrol, test in scored:
            seen[name := f"{enrol} {test}"] += 1
            answers.append(
                {
                    "id": name if seen[name] == 1 else f"{name} #{seen[name]}",
                    "speaker": None,
                    "reference": TARGET if target else NONTARGET,
                    "hypothesis": f"{vectors[enrol] @ vectors[test]:.8f}",
                    "labels": dict(zip(SPEAKERS, (speakers[enrol], speakers[test]), strict=True)),
                }
            )
        return answers

    def _count_unscored(self, trials: int, names: Sequence[str]) -> None:
        self.counts.pop(UNSCORED, None)
        if not trials:
            return
        self.counts[UNSCORED] = trials
        if names not in self._warned:  # validation asks often
            self._warned.append(names)
            LOGGER.warning(
                "task '%s': %d trials not scored: without pauses, fewer than %d frames are left "
                "of %d utterances: %s",
                *(self.name, trials, NEEDED, len(names), named(names)),
            )


TASK = Verification
