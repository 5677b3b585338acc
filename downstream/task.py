"""The contract between the evaluation job and a task: data, head, loss, decoding, metrics.

Shapes: B batch, T frames, L hidden states, D dimension, V outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import iter_modules
from typing import ClassVar

from torch import Tensor, nn

from mt4ssl_bench.data.cut import Cut, field_of, labels_of, speaker_of
from mt4ssl_bench.data.effects import Effect
from mt4ssl_bench.data.epoch_order import Places
from mt4ssl_bench.downstream import tasks
from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS, Metric
from mt4ssl_bench.results.record_parts import Trial
from mt4ssl_bench.settings import Json

Logits = tuple[list[Cut], Tensor, Tensor]  # cuts, logits (B, T, V), lengths (B,)


@dataclass(frozen=True, kw_only=True)
class WithLM:
    """Hypotheses on test by beam search with a language model, and the weights that it had."""

    hypotheses: list[str]
    weights: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a training: hypotheses on test, and how the head was chosen.

    `hypotheses` and `cuts` are of the test split, in one order. `counts` are of what was left out.
    """

    hypotheses: list[str]
    cuts: list[Cut]
    trials: list[Trial]
    layer_weights: list[float]
    layer_norms: list[float] = field(default_factory=list)  # of the hidden states
    with_lm: WithLM | None = None
    counts: dict[str, int] = field(default_factory=dict)


class BaseTask(ABC):
    """The contract of all tasks; a task is a Task (it trains heads) or a LayerTask (it does not).

    Attributes:
        name: Of the task, in commands and records.
        superb: SUPERB's abbreviation, which commands take too, in any case.
        full_hours: Training audio, with folds the audio of all, from which on the task's name means
            its full recipe; below, its tiny part.
        version: Raised by a change that affects scores.
        metrics: Names in METRICS, or metrics of the task's own. The first selects the learning
            rate and ranks.
        reads: Fields that every utterance must have: "text", "phones", "speaker", the name of any
            label, "turns:<tier>" or "other:<name>"; "list:<name>" is a list of the corpus.
        roles: Roles of the splits that it reads: "train", "valid", "test".
        splits: Prefix of splits of its own ("sid_": sid_train), used where the corpus has them.
        effects: Applied to the audio before the upstream, in order.
        folds: The label whose values are held out in turn; "" for the corpus's own splits.
        Config: Class of its config, which has its keys and their defaults.
    """

    name: ClassVar[str]
    superb: ClassVar[str] = ""
    full_hours: ClassVar[float] = 50.0
    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[str | Metric, ...]]
    reads: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    splits: ClassVar[str] = ""
    effects: ClassVar[tuple[Effect, ...]] = ()
    folds: ClassVar[str] = ""
    Config: ClassVar[type[BaseConfig]]

    @abstractmethod
    def __init__(self, config: BaseConfig) -> None:
        """Take the config, an instance of Config."""

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:  # noqa: ARG003 - most have one answer
        """Return what the task reads under this config, as `reads`."""
        return cls.reads

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Raise BenchError if the config needs what this machine lacks."""

    @property
    def metric(self) -> Metric:
        """The main metric."""
        return self.all_metrics[0]

    @property
    def all_metrics(self) -> list[Metric]:
        """The metrics, the main one first."""
        return [METRICS.get(each) if isinstance(each, str) else each for each in self.metrics]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a task without training computed on a split.

    Attributes:
        answers: Of each layer, what the metrics are computed from.
        counts: What was compared, and what was left out.
        files: Further files beside the record: name's suffix -> text.
    """

    answers: list[list[Answer]]
    counts: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


class LayerTask(BaseTask):
    """A task without training: every hidden state is scored, and the best one on valid counts."""

    roles = ("valid", "test")
    Config: ClassVar[type[BaseConfig]] = BaseConfig

    @abstractmethod
    def score(self, cuts: Sequence[Cut], features: FeatureSet, stride: int, device: str) -> Scored:
        """Return the answers of each layer.

        Args:
            cuts: Of a split.
            features: Of every frame of these cuts.
            stride: Samples from frame to frame.
            device: Torch device.

        Raises:
            CorpusError: If the split holds nothing to score.
        """


class Task(BaseTask):
    """A task that trains heads, built from its config and the training split.

    Attributes:
        pooled: Whether heads read means over time instead of frames.
    """

    pooled: ClassVar[bool] = False
    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    def unlearnable(self, cuts: Iterable[Cut]) -> str:  # noqa: ARG002 - for those that need more
        """Return what the training cuts lack ("needs two speakers"), or ""."""
        return ""

    @abstractmethod
    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """Take units or labels from the training split only."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """The number of outputs of the head for each frame or utterance."""

    @abstractmethod
    def state(self) -> dict[str, Json]:
        """Return what fit_units() took, as plain containers for a file."""

    @abstractmethod
    def restore(self, state: Mapping[str, Json]) -> None:
        """Take what state() returned, instead of fit_units()."""

    @abstractmethod
    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a new head: features (L, B, T, D), lengths (B,) -> logits, lengths."""

    @abstractmethod
    def reference(self, cut: Cut) -> str:
        """Return the perfect hypothesis of a cut, which is also its training target."""

    @abstractmethod
    def target(self, cut: Cut) -> Tensor:
        """Return the training target of a cut, a vector of ids."""

    @abstractmethod
    def units_in(self, cut: Cut) -> list[str]:
        """Return the units of a cut's reference: characters, phonemes, labels."""

    @abstractmethod
    def knows(self, unit: str) -> bool:
        """Return whether a unit is in the training split."""

    def frames_needed(self, cut: Cut) -> int:  # noqa: ARG002
        """Return the fewest frames from which the cut's target can be learnt."""
        return 1

    @abstractmethod
    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss of each row (B,)."""

    def summed_loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss summed over utterances, as fine-tuning reads it."""
        return self.loss(logits, lengths, targets).sum()

    def draw(self, cuts: Sequence[Cut], epoch: int, role: str) -> Places | None:  # noqa: ARG002
        """Return which cuts an epoch of "train" or "valid" has; None: all, once.

        Args:
            cuts: Of the split.
            epoch: Number of the epoch; 0 for "valid", which is the same at every validation.
            role: "train" or "valid".

        Returns:
            Places in `cuts` (N,), which may repeat.
        """
        return None

    def hold_out(self, cuts: Sequence[Cut]) -> tuple[list[Cut], list[Cut]]:
        """Return the training and the validation cuts of what a fold does not test."""
        raise NotImplementedError(f"task '{self.name}' has folds and no hold_out()")

    @abstractmethod
    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return one hypothesis per row."""

    def answers(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> list[Answer]:
        """Return what metrics are computed from, one answer per cut."""
        answers: list[Answer] = []
        for cut, hypothesis in zip(cuts, hypotheses, strict=True):
            answers.append(
                {
                    "id": cut.id,
                    "speaker": speaker_of(cut) or None,
                    "reference": self.reference(cut),
                    "hypothesis": hypothesis,
                }
            )
            labels = dict(labels_of(cut))
            if self.folds:
                labels["fold"] = field_of(cut, self.folds)
            if labels:
                answers[-1]["labels"] = labels
        return answers

    def measure(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> float:
        """Return the main metric without its interval: validation asks for it often."""
        return self.metric.value(self.answers(cuts, hypotheses))

    def answer_with_lm(
        self,
        logits: Callable[[str], Iterable[Logits]],  # noqa: ARG002 - of the split of a role
    ) -> WithLM | None:
        """Return hypotheses on test by the recipe's language model; None without one."""
        return None


TASKS: Registry[type[BaseTask]] = Registry(
    "task",
    {
        module.name: f"{tasks.__name__}.{module.name}:TASK"
        for module in iter_modules(tasks.__path__)
    },
    group="mt4ssl_bench.tasks",
    base=BaseTask,
)


def task_named(name: str) -> str:
    """Return the name of the task that SUPERB abbreviates so; any other name as it is."""
    if name in set(TASKS):
        return name
    by_short = {kind.superb.casefold(): task for task, kind in TASKS.items() if kind.superb}
    return by_short.get(name.casefold(), name)
