"""Speaker diarization: who speaks when, one output for each speaker of a recording.

Shapes: L hidden states, B batch, T frames, D dimension, V outputs.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.signal import medfilt
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, Bound, Bounds
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.cut import Cut, turns_of
from mt4ssl_bench.data.turns import from_frames, from_text, merged, to_frames, to_rttm, to_text
from mt4ssl_bench.device import moved
from mt4ssl_bench.downstream.config import HeadConfig, TaskConfig
from mt4ssl_bench.downstream.heads.orders import best_orders
from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum
from mt4ssl_bench.downstream.task import Logits, Task
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.metrics.mean_of_values import MeanOfValues
from mt4ssl_bench.settings import FROZEN, Json

LOGGER = logging.getLogger(__name__)
FRAME_ACC = Metric(
    name="frame_acc",
    title="frame accuracy",
    value=MeanOfValues("frame_acc"),
    higher_is_better=True,
    over="recordings",
)


CHANCES: Bound = (
    "numbers between 0 and 1",
    lambda values: bool(values) and all(0 < value < 1 for value in values),
)
ODD: Bound = (
    "odd numbers of frames",
    lambda values: bool(values) and all(value > 0 and value % 2 for value in values),
)


@dataclass(frozen=True, kw_only=True)
class LSTMHeadConfig(HeadConfig):
    """The sizes of the head."""

    hidden: int = 512  # units of the LSTM
    lstm_layers: int = 1  # number of LSTM layers

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "hidden lstm_layers"}


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """From chances to turns; the best pair on valid decodes test."""

    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)  # chances from which on one speaks
    medians: tuple[int, ...] = (1, 11)  # width of a median filter over time, in frames; 1: none

    BOUNDS: ClassVar[Bounds] = {CHANCES: "thresholds", ODD: "medians"}


@dataclass(frozen=True, kw_only=True)
class DiarizationConfig(TaskConfig):
    """The keys of speaker diarization."""

    speakers: int = 0  # number of outputs; 0: the most speakers of a training recording
    head: LSTMHeadConfig = field(default_factory=LSTMHeadConfig, metadata=FROZEN)
    decode: FilterConfig = field(default_factory=FilterConfig)

    BOUNDS: ClassVar[Bounds] = {NOT_NEGATIVE: "speakers"}

    def unread(self) -> set[str]:
        """See BaseConfig.unread: the LSTM reads the weighted sum itself."""
        return {"head.projection"}


class DiarizationHead(nn.Module):
    """LSTM in one direction, Linear (s3prl's diarization Model)."""

    def __init__(self, num_layers: int, dim: int, outputs: int, config: LSTMHeadConfig) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers, layer_norm=config.layer_norm)
        self.rnn = nn.LSTM(dim, config.hidden, config.lstm_layers, batch_first=True)
        self.output = nn.Linear(config.hidden, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) of features (L, B, T, D), and their lengths (B,)."""
        logits: Tensor = self.output(self.rnn(self.sum(features))[0])
        return logits, lengths


class Diarization(Task):
    """SUPERB's SD, on whole recordings: s3prl cuts those over 2,000 frames."""

    name: ClassVar[str] = "diarization"
    divisible: ClassVar[bool] = False  # sums over rows are rounded by their number
    superb: ClassVar[str] = "SD"
    full_hours: ClassVar[float] = 50.0  # Libri2Mix, mode max: 56 h
    metrics: ClassVar[tuple[str | Metric, ...]] = ("der", "der_by_rule")
    chosen_by: ClassVar[str | Metric] = FRAME_ACC
    reads: ClassVar[tuple[str, ...]] = ("turns:speakers",)
    modes: ClassVar[tuple[str, ...]] = ("frozen",)
    learns_silence: ClassVar[bool] = True
    Config: ClassVar[type[DiarizationConfig]] = DiarizationConfig
    config: DiarizationConfig
    speakers: int
    threshold, median = 0.5, 1  # of decode(), until tune()

    def unlearnable(self, cuts: Iterable[Cut]) -> str:
        """See Task.unlearnable."""
        most = max(cuts, key=lambda cut: len(_names(cut)))
        found, outputs = len(_names(most)), self.config.speakers
        if outputs and found > outputs:
            return f"has {found} speakers in '{most.id}', and speakers={outputs}, in a recording"
        return "" if found else "needs turns of speakers, and nobody speaks in the recordings"

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units: the number of speakers."""
        self.speakers = self.config.speakers or max(len(_names(cut)) for cut in cuts)
        LOGGER.info("%s: %d outputs, for as many speakers of a recording", self.name, self.speakers)

    @property
    def outputs(self) -> int:
        """See Task.outputs."""
        return self.speakers

    def state(self) -> dict[str, Json]:
        """See Task.state."""
        return {"speakers": self.speakers}

    def restore(self, state: Mapping[str, Json]) -> None:
        """See Task.restore."""
        self.speakers = cast("int", state["speakers"])

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a DiarizationHead."""
        return DiarizationHead(num_layers, dim, self.outputs, self.config.head)

    def reference(self, cut: Cut) -> str:
        """Return the cut's turns as text, overlapping ones of one speaker merged."""
        return to_text(merged(turns_of(cut, "speakers")))

    def units_in(self, cut: Cut) -> list[str]:
        """Return "speaker 1", "speaker 2", ...: names mean nothing to diarization."""
        return [f"speaker {number}" for number, _ in enumerate(_names(cut), start=1)]

    def knows(self, unit: str) -> bool:
        """See Task.knows: there is an output for it."""
        return int(unit.removeprefix("speaker ")) <= self.speakers

    def target(self, cut: Cut) -> Tensor:
        """Return who speaks in each frame (T, V)."""
        shape = self._frames(cut), self.speakers
        return torch.from_numpy(to_frames(turns_of(cut, "speakers"), shape, self.stride))

    def match(
        self, cuts: Sequence[Cut], features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Task.match: frames beyond the labels are cut off, the last one stands for missing."""
        wanted = torch.tensor([self._frames(cut) for cut in cuts])
        time = torch.arange(int(wanted.max()))[None].minimum(lengths[:, None] - 1)  # (B, T)
        place = moved(time, features.device)[None, :, :, None]
        return features.take_along_dim(place, dim=2), wanted

    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return BCE for each row (B,) under the best order of its speakers, over all frames.

        The mean over rows is s3prl's pit_loss: over speakers and over the frames of the batch. The
        cost of each order is a sum over its pairs, so that the best order is an assignment.
        """
        labels = pad_sequence(targets, batch_first=True).to(logits.device)  # (B, T, V)
        frames = moved(lengths, logits.device)
        real = torch.arange(logits.shape[1], device=logits.device)[None] < frames[:, None]
        x = logits.float() * real[..., None]
        silent = (F.softplus(logits.float()) * real[..., None]).sum(1)  # (B, V), labels of 0
        costs = silent[:, :, None] - torch.einsum("btv,btw->bvw", x, labels)  # (B, V, V)
        return best_orders(costs) * len(costs) / lengths.sum()

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return turns as text, by the threshold and the median filter that tune() chose."""
        return self._texts(logits, lengths, self.threshold, self.median)

    def answers(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> list[Answer]:
        """See Task.answers; with the frame accuracy under the best order of speakers."""
        answers = super().answers(cuts, hypotheses)
        for answer, cut in zip(answers, cuts, strict=True):
            sides = from_text(answer["reference"]), from_text(answer["hypothesis"])
            shape = self._frames(cut), max(self.speakers, len(_names(cut)))
            ours, theirs = (to_frames(side, shape, self.stride) for side in sides)
            same = (ours[:, :, None] == theirs[:, None]).sum(axis=0)  # (V, V)
            right = same[linear_sum_assignment(same, maximize=True)].sum()
            answer["values"] = {"frame_acc": 100.0 * float(right) / max(1, ours.size)}
        return answers

    def tune(self, logits: Iterable[Logits]) -> dict[str, float]:
        """See Task.tune: the threshold and the median filter with the lowest DER on valid."""
        batches = [(cuts, values.cpu(), lengths.cpu()) for cuts, values, lengths in logits]
        cuts = [cut for batch, _, _ in batches for cut in batch]
        best = float("inf")
        for threshold, median in self._settings():
            texts = [text for _, x, n in batches for text in self._texts(x, n, threshold, median)]
            value = self.metric.value(super().answers(cuts, texts))
            if value < best:
                best, self.threshold, self.median = value, threshold, median
        return {"threshold": self.threshold, "median": self.median}

    def variants(self, logits: Tensor, lengths: Tensor) -> dict[str, list[str]]:
        """See Task.variants: every threshold and median filter."""
        return {
            f"threshold {x:g}, median {size}": self._texts(logits, lengths, x, size)
            for x, size in self._settings()
        }

    def files(self, answers: Sequence[Answer]) -> dict[str, str]:
        """See Task.files: the hypotheses as RTTM."""
        return {".rttm": to_rttm({row["id"]: from_text(row["hypothesis"]) for row in answers})}

    def _settings(self) -> Iterator[tuple[float, int]]:
        return product(self.config.decode.thresholds, self.config.decode.medians)

    def _frames(self, cut: Cut) -> int:
        return round(cut.duration * RATE) // self.stride

    def _texts(self, logits: Tensor, lengths: Tensor, threshold: float, median: int) -> list[str]:
        """Return the turns of each row; times are rounded to 0.01 s, as in s3prl's RTTM."""
        texts, chances = [], logits.float().sigmoid().cpu().numpy()
        for row, length in zip(chances, lengths.tolist(), strict=True):
            active = (row[:length] > threshold).astype(np.float32)
            active = medfilt(active, (median, 1)) if median > 1 else active
            texts.append(to_text(from_frames(active, self.stride)))
        return texts


def _names(cut: Cut) -> set[str]:
    return {turn.label for turn in turns_of(cut, "speakers")}


TASK = Diarization
