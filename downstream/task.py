"""The contract between the evaluation job and a task: data, head, loss, decoding, metrics.

Shapes: B batch, T frames, L hidden states, D dimension, V outputs.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pkgutil import iter_modules
from types import MappingProxyType
from typing import ClassVar, Self

from torch import Tensor, nn

from mt4ssl_bench.data.cut import FOLD, Cut, field_of, labels_of, speaker_of
from mt4ssl_bench.data.effects import Effect
from mt4ssl_bench.data.epoch_order import Places
from mt4ssl_bench.data.lists import Lists
from mt4ssl_bench.downstream import tasks
from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.downstream.training.trained import WithLM
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.metrics import METRICS, Metric
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.optim import OptimConfig

Logits = tuple[list[Cut], Tensor, Tensor]  # cuts, logits (B, T, V), lengths (B,)


class BaseTask(ABC):
    """The contract of all tasks; a task is a Task (it trains heads) or a LayerTask (it does not).

    Attributes:
        name: Of the task, in commands and records.
        superb: SUPERB's abbreviation, which commands take too, in any case.
        full_hours: Training audio, with folds the audio of all, from which on the task's name means
            its full recipe; below, its tiny part.
        version: Raised by a change that affects scores.
        metrics: Names in METRICS, or metrics of the task's own. The first ranks.
        chosen_by: The metric on valid that chooses learning rate and update; "" for the first.
        reads: Fields that every utterance must have: "text", "phones", "speaker", the name of any
            label, "turns:<tier>" or "other:<name>"; "list:<name>" is a list of the corpus.
        roles: Roles of the splits that it reads: "train", "valid", "test", or the name of a split
            that only this task has.
        splits: Prefix of splits of its own ("sid_": sid_train), used where the corpus has all that
            the task needs; a corpus with only some of them is rejected.
        effects: Applied to the audio before the upstream, in order.
        folds: The label whose values are held out in turn; "" for the corpus's own splits.
        modes: Values of `mode` that it can be trained in.
        Config: Class of its config, which has its keys and their defaults.
        config: An instance of Config.
        lists: Rows of the corpus's lists by name, set before take().
        counts: Of what could not be scored, for the record.
    """

    name: ClassVar[str]
    superb: ClassVar[str] = ""
    full_hours: ClassVar[float] = 50.0
    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[str | Metric, ...]]
    chosen_by: ClassVar[str | Metric] = ""
    reads: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    splits: ClassVar[str] = ""
    effects: ClassVar[tuple[Effect, ...]] = ()
    folds: ClassVar[str] = ""
    modes: ClassVar[tuple[str, ...]] = ("frozen", "finetune")
    Config: ClassVar[type[BaseConfig]]
    config: BaseConfig
    lists: Lists = MappingProxyType({})

    def __init__(self, config: BaseConfig) -> None:
        self.config = config
        self.counts: dict[str, int] = {}

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:  # noqa: ARG003 - most have one answer
        """Return what the task reads under this config, as `reads`."""
        return cls.reads

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Raise BenchError if the config needs what this machine lacks."""

    def take(self, cuts: Mapping[str, Sequence[Cut]]) -> Mapping[str, Sequence[Cut]]:
        """Take the cuts by role before any computation; return those that can be used.

        What is found goes into `counts`.

        Raises:
            CorpusError: If the task cannot be trained or scored on them.
        """
        return cuts

    @property
    def metric(self) -> Metric:
        """The main metric."""
        return self.all_metrics[0]

    @property
    def all_metrics(self) -> list[Metric]:
        """The metrics, the main one first."""
        return [METRICS.get(each) if isinstance(each, str) else each for each in self.metrics]

    @property
    def choice(self) -> Metric:
        """The metric on valid that chooses: see `chosen_by`."""
        name = self.chosen_by or self.metrics[0]
        return METRICS.get(name) if isinstance(name, str) else name


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
    """A task without training: every hidden state is scored, and the best one on valid counts.

    Attributes:
        shared: A role whose utterances belong to every other one, or "": the documents in which
            the queries of valid and test are searched.
    """

    roles: ClassVar[tuple[str, ...]] = ("valid", "test")
    modes = ("frozen",)
    Config: ClassVar[type[BaseConfig]] = BaseConfig
    shared: ClassVar[str] = ""

    @abstractmethod
    def score(self, cuts: Sequence[Cut], features: FeatureSet, stride: int, device: str) -> Scored:
        """Return the answers of each layer.

        Args:
            cuts: Of a split.
            features: Of every frame of these cuts, and of the shared ones.
            stride: Samples from frame to frame.
            device: Torch device.

        Raises:
            CorpusError: If the split holds nothing to score.
        """

    def resampled(self) -> list["LayerTask"]:
        """Return tasks that draw other samples of what is compared; none if all is compared."""
        return []


class Task(BaseTask):
    """A task that trains heads, built from its config and the training split.

    Attributes:
        pooled: Whether heads read means over time instead of frames.
        learns_silence: Whether utterances in which nobody speaks are trained on.
        divisible: Whether a head's loss has the same bits without the other heads of its batch.
        looks: Validations at which test is decoded, too, for SUPERB's best of so many on test
            (`by_rule`), which is never ranked. The task has no folds, and its hypotheses are
            numbers with 8 decimals.
        stride: Samples from frame to frame of the upstream, set before anything is trained.
    """

    pooled: ClassVar[bool] = False
    learns_silence: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    looks: ClassVar[int] = 0
    stride: int = 320
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    config: TaskConfig

    def with_seed(self, seed: int) -> Self:
        """Return a copy with the same units whose order, crops and draws are those of `seed`."""
        other = copy.copy(self)
        other.config = replace(self.config, seeds=(seed,))
        return other

    def unlearnable(self, cuts: Iterable[Cut]) -> str:  # noqa: ARG002 - for those that need more
        """Return what the training cuts lack ("needs two speakers"), or ""."""
        return ""

    @abstractmethod
    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """Take units or labels from the training split only."""

    def usable(self, cuts: Sequence[Cut]) -> list[Cut]:
        """Return the training cuts that are long enough."""
        return list(cuts)

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
        """Return the training target of a cut, for example a vector of ids.

        Asked for with every batch: a target may be as large as the audio that it is read from.
        """

    @abstractmethod
    def units_in(self, cut: Cut) -> list[str]:
        """Return the units of a cut's reference: characters, phonemes, labels."""

    @abstractmethod
    def knows(self, unit: str) -> bool:
        """Return whether a unit is in the training split."""

    def frames_needed(self, cut: Cut) -> int:  # noqa: ARG002
        """Return the fewest frames from which the cut's target can be learnt."""
        return 1

    def match(
        self,
        cuts: Sequence[Cut],  # noqa: ARG002 - most take the frames as they come
        features: Tensor,
        lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return features (L, B, T, D) and lengths (B,) with as many frames as targets have."""
        return features, lengths

    @abstractmethod
    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss of each row (B,)."""

    def optim(self) -> OptimConfig:
        """Return the optimizer of heads, which are clipped each on its own; default: Adam."""
        return OptimConfig(  # SUPERB's, at a constant rate
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            schedule="constant",
            clip_norm=self.config.clip_norm,
        )

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

    def written(self, cut: Cut) -> str:
        """Return the cut's hypothesis by a model without errors, as the units write it."""
        return self.reference(cut)

    @abstractmethod
    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return one hypothesis per row."""

    def hypotheses(
        self,
        cuts: Sequence[Cut],  # noqa: ARG002 - for those that read the cuts' audio
        logits: Tensor,
        lengths: Tensor,
        *,
        test: bool,  # noqa: ARG002 - for metrics that take long
    ) -> list[str]:
        """Return one hypothesis per row of a batch of valid, or of `test`.

        Valid needs only what its metric is computed from.
        """
        return self.decode(logits, lengths)

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
                labels[FOLD] = field_of(cut, self.folds)
            if labels:
                answers[-1]["labels"] = labels
        return answers

    def measure(self, cuts: Sequence[Cut], hypotheses: Sequence[str]) -> float:
        """Return the metric that chooses, without its interval: validation asks for it often."""
        return self.choice.value(self.answers(cuts, hypotheses))

    def tune(
        self,
        logits: Iterable[Logits],  # noqa: ARG002 - most decode in one way
    ) -> dict[str, float]:
        """Choose how decode() works on test, and return what was chosen, for the record.

        Args:
            logits: Of the chosen head on valid, computed when they are read.
        """
        return {}

    def variants(self, logits: Tensor, lengths: Tensor) -> dict[str, list[str]]:  # noqa: ARG002
        """Return hypotheses by other ways to decode test, for metrics that are not ranked."""
        return {}

    def files(self, answers: Sequence[Answer]) -> dict[str, str]:  # noqa: ARG002 - most have none
        """Return further files beside the record: suffix -> text."""
        return {}

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
    if name in TASKS:
        return name
    by_short = {kind.superb.casefold(): task for task, kind in TASKS.items() if kind.superb}
    return by_short.get(name.casefold(), name)
