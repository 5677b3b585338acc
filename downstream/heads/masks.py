"""Enhancement and separation: an LSTM predicts a mask of the mixture's spectrum for each source.

Shapes: B batch, S sources, N samples, T frames, F bins; logits (B, T, S * F) are masks.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import permutations
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mt4ssl_bench.config import NOT_NEGATIVE, Bound, Bounds
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.audio_cache import AudioCache
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.device import moved
from mt4ssl_bench.downstream.config import MaskHeadConfig, RecurrentHeadConfig, TaskConfig
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.signal_measures import Signals, check_packages, measured
from mt4ssl_bench.downstream.heads.spectra import (
    BINS,
    SIZE,
    frame_count,
    signals_of,
    spectrum,
    without_impulse,
)
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import CorpusError, UpstreamError
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS, Metric
from mt4ssl_bench.settings import FROZEN, NEVER, Json
from mt4ssl_bench.training.optim import OptimConfig

FRAMES_OFF = 4  # by which an upstream may miss the frames of the spectrum, as in s3prl
SAMPLES_OFF = round(audio.SHORT * audio.RATE)  # by which a decoded signal may fall short
MEASURES = ("si_sdri", "pesq", "stoi")
NAMES: Bound = (
    f"one or several of {', '.join(MEASURES)}",
    lambda names: 0 < len(names) == len(set(names) & set(MEASURES)),
)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(TaskConfig):
    """The keys of enhancement and separation."""

    head: MaskHeadConfig = field(default_factory=MaskHeadConfig, metadata=FROZEN)
    # what is measured on test; the first one selects on valid, and ranks
    measures: tuple[str, ...] = ("si_sdri",)
    cache_hours: float = field(default=2.0, metadata=NEVER)  # hours of training audio in memory

    BOUNDS: ClassVar[Bounds] = {NAMES: "measures", NOT_NEGATIVE: "cache_hours"}


class MaskHead(RecurrentHead):
    """Bidirectional LSTM, Linear, ReLU (s3prl's SepRNN); the masks of all sources side by side."""

    def __init__(self, num_layers: int, dim: int, outputs: int, config: MaskHeadConfig) -> None:
        super().__init__(num_layers, dim, outputs, RecurrentHeadConfig(**asdict(config)))

    def recur(
        self, x: Tensor, lengths: Tensor, dropouts: Sequence[Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return masks (B, T, S * F) and their lengths (B,) of a weighted sum x (B, T, D)."""
        masks, lengths = super().recur(x, lengths, dropouts)
        return masks.relu(), lengths


def sample_count(cut: Cut) -> int:
    """Return the number of samples of a cut at 16 kHz, to which its signals are cut or padded."""
    rate = cut.recording.sampling_rate
    return -(-round(cut.duration * rate) * audio.RATE // rate)  # rounded up, as by resampling


def by_source(masks: Tensor) -> Tensor:
    """Return masks (..., S * F) as (..., S, F)."""
    return masks.reshape(*masks.shape[:-1], -1, BINS)


class MaskTask(Task):
    """A mixture's sources by masks of its spectrum, the hop of which is the upstream's stride.

    The sources are the other audio that `reads` names. A hypothesis is what was measured on the
    estimated signals, as JSON.
    """

    modes: ClassVar[tuple[str, ...]] = ("frozen",)
    Config: ClassVar[type[TaskConfig]] = MaskConfig
    config: MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        super().__init__(config)
        self.sources = tuple(name.removeprefix("other:") for name in self.reads)
        self._read = self._reader(0.0)

    def _reader(self, seconds: float) -> AudioCache:
        return AudioCache(self._signals, seconds=seconds, hours=self.config.cache_hours, workers=0)

    def check(self) -> None:
        """See Task.check: the packages of the measures."""
        check_packages(self.config.measures)

    @property
    def all_metrics(self) -> list[Metric]:
        """See BaseTask.all_metrics: the measures, and those of the unprocessed mixture."""
        own = self.config.measures
        mixture = [f"{name}_mixture" for name in own if f"{name}_mixture" in METRICS]
        return [METRICS.get(name) for name in (*own, *mixture)]

    @property
    def choice(self) -> Metric:
        """See BaseTask.choice: the first measure."""
        return self.metric

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units: there are none; audio is kept in memory if there is little."""
        self._read = self._reader(sum(cut.duration for cut in cuts))

    @property
    def outputs(self) -> int:
        """See Task.outputs: a mask for each source."""
        return BINS * len(self.sources)

    def state(self) -> dict[str, Json]:
        """See Task.state."""
        return {}

    def restore(self, state: object) -> None:
        """See Task.restore."""

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a MaskHead."""
        return MaskHead(num_layers, dim, self.outputs, self.config.head)

    def optim(self) -> OptimConfig:
        """See Task.optim; s3prl's own AdamW decays nothing, and its eps is 1e-7."""
        return replace(super().optim(), eps=1e-7)

    def reference(self, cut: Cut) -> str:  # noqa: ARG002 - all have the same
        """Return the names of the sources."""
        return " ".join(self.sources)

    def units_in(self, cut: Cut) -> list[str]:  # noqa: ARG002
        """Return the names of the sources."""
        return list(self.sources)

    def knows(self, unit: str) -> bool:
        """See Task.knows."""
        return unit in self.sources

    def _signals(self, cut: Cut) -> Signals:
        """Return the mixture and its sources (1 + S, N), of sample_count() samples each.

        Raises:
            CorpusError: If one cannot be read, or its length differs by more than SAMPLES_OFF:
                compressed audio may be decoded shorter than its header states.
        """
        count = sample_count(cut)
        signals: list[audio.Samples] = []
        for name in ("", *self.sources):
            signal = audio.read(cut, name)[:count]
            if len(signal) < count - SAMPLES_OFF:
                raise CorpusError(
                    f"utterance '{cut.id}': {name or 'the mixture'} has {len(signal)} samples at "
                    f"16 kHz; expected {count}"
                )
            signals.append(np.pad(signal, (0, count - len(signal))))
        return np.stack(signals)

    def match(
        self, cuts: Sequence[Cut], features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Task.match: frames are cut or zero-padded to those of the spectrum.

        Raises:
            UpstreamError: If an utterance lacks more than FRAMES_OFF frames, or has more.
        """
        wanted = [frame_count(sample_count(cut), self.stride) for cut in cuts]
        for cut, own, frames in zip(cuts, lengths.tolist(), wanted, strict=True):
            if abs(own - frames) > FRAMES_OFF or self.stride > SIZE:
                raise UpstreamError(
                    f"utterance '{cut.id}': {own} frames; expected {frames} by the upstream's "
                    f"stride of {self.stride} (at most {SIZE}), up to {FRAMES_OFF} more or fewer"
                )
        return F.pad(features, (0, 0, 0, max(wanted) - features.shape[2])), torch.tensor(wanted)

    def target(self, cut: Cut) -> Tensor:
        """Return magnitudes (T, 1 + S, F): the mixture's, and what masks of it should leave.

        That is the phase-sensitive magnitude of each source, where it is not negative (Kolbaek et
        al. 2017, "Multitalker speech separation with utterance-level PIT").
        """
        mixture, *sources = spectrum(torch.from_numpy(self._read(cut)), self.stride)
        own = [
            source.abs() * torch.cos(mixture.angle() - source.angle()).relu() for source in sources
        ]
        return torch.stack([mixture.abs(), *own], dim=1)

    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the squared error of each row (B,): sum over bins, mean over frames and sources.

        Sources are in the order in which it is smallest (permutation-invariant training).
        """
        magnitudes = nn.utils.rnn.pad_sequence(targets, batch_first=True).to(logits.device)
        mixture, count = magnitudes[:, :, :1], len(self.sources)
        masked = by_source(logits) * mixture  # (B, T, S, F); 0 in the padding
        errors = [
            [(masked[:, :, e] - magnitudes[:, :, 1 + s]).square().sum((1, 2)) for s in range(count)]
            for e in range(count)
        ]
        orders = [
            torch.stack([errors[e][s] for e, s in enumerate(order)]).sum(0)
            for order in permutations(range(count))
        ]
        return torch.stack(orders).amin(0) / (moved(lengths, logits.device) * count)

    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Raise: signals need the mixtures of hypotheses()."""
        raise NotImplementedError("masks are decoded with their mixtures, by hypotheses()")

    def hypotheses(
        self, cuts: Sequence[Cut], logits: Tensor, lengths: Tensor, *, test: bool
    ) -> list[str]:
        """See Task.hypotheses; on valid only the measure that selects is computed."""
        names = tuple(metric.name for metric in (self.all_metrics if test else [self.choice]))
        found = []
        for cut, masks, length in zip(cuts, logits.cpu(), lengths.tolist(), strict=True):
            mixture, *references = self._read(cut)
            estimates = self.estimates(mixture, masks[:length])
            found.append(json.dumps(measured(estimates, np.stack(references), mixture, names)))
        return found

    def estimates(self, mixture: audio.Samples, masks: Tensor) -> Signals:
        """Return the signals (S, N) of a mixture (N,) by masks (T, S * F)."""
        spectra = spectrum(torch.from_numpy(mixture), self.stride)  # (T, F)
        own = by_source(masks).movedim(1, 0)  # (S, T, F)
        signals = signals_of(own * spectra, self.stride, len(mixture)).numpy()
        return np.stack([without_impulse(signal) for signal in signals])

    def answers(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> list[Answer]:
        """See Task.answers, with what was measured."""
        answers = super().answers(cuts, [""] * len(cuts))
        for answer, hypothesis in zip(answers, hypotheses, strict=True):
            answer["values"] = json.loads(hypothesis)
        return answers
