"""The contract between the evaluation job and a task: head, targets, loss, decoding and score, and
nothing else.

Shapes: B batch, T frames, L hidden states, D dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.record import Trial

Answers = tuple[list[Any], Tensor, Tensor]  # cuts, logits (B, T, V), lengths (B,)


@dataclass(frozen=True, kw_only=True)
class WithLM:
    """The answers on test once more, by beam search with a language model, and the weights that it
    had.
    """

    hypotheses: list[str]
    weights: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training on a task gives, however it trains: the answers on test, and how the head was
    chosen.

    `hypotheses` and `cuts` are of the test split, in one order. `counts` say what was left out.
    """

    hypotheses: list[str]
    cuts: list[Any]
    trials: list[Trial]
    layer_weights: list[float]
    layer_norms: list[float] = field(
        default_factory=list
    )  # of the hidden states, see layer_norms()
    with_lm: WithLM | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Task(ABC):
    """A task, built from its recipe and the training split.

    Attributes:
        name, metric, version: of the record; a change that moves scores raises the version.
        needs: the field that every utterance must have: text, phones or speaker.
        Config: the class of the task's config, with its keys and their defaults.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[str]
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    pooled: ClassVar[bool] = False  # reads means over time instead of frames

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @classmethod
    # most tasks read the same field under every recipe
    def reads(cls, config: TaskConfig) -> str:  # noqa: ARG003
        """Return the field that every utterance must have under this recipe."""
        return cls.needs

    @abstractmethod
    def fit_units(self, cuts: Sequence[Any]) -> None:
        """Take units or the speaker table from the training split, and from nothing else."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the head gives for each frame or utterance."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what fit_units() took, as plain containers for a file."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take what state() returned instead of fit_units()."""

    @abstractmethod
    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a new head: (features (L, B, T, D), frames (B,)) -> (logits, lengths)."""

    @abstractmethod
    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return what a perfect hypothesis of the cut would be, and what training shows."""

    def references(self, cuts: Sequence[Any]) -> list[str]:
        """Return reference() of each cut."""
        return [self.reference(cut) for cut in cuts]

    @abstractmethod
    def target(self, cut: Any) -> Tensor:  # noqa: ANN401
        """Return the cut's training target, a vector of ids."""

    @abstractmethod
    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return what of the cut's reference training must have shown: characters, phonemes, the
        speaker.
        """

    @abstractmethod
    def knows(self, unit: str) -> bool:
        """Return whether training shows a unit."""

    def frames_needed(self, cut: Any) -> int:  # noqa: ANN401, ARG002
        """Return the fewest frames from which the cut's target can be learnt."""
        return 1

    @abstractmethod
    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss of each row (B,)."""

    def summed_loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss as a sum over utterances, each as it is: fine-tuning's."""
        return self.loss(logits, lengths, targets).sum()

    @abstractmethod
    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return one hypothesis per row."""

    def answer_with_lm(
        self,
        logits: Callable[[str], Iterable[Answers]],  # noqa: ARG002
    ) -> WithLM | None:
        """Return the test split's hypotheses with the recipe's language model; None where there is
        none to use.

        `logits` gives a split's answers by role, in the order of its references.
        """
        return None

    @abstractmethod
    def measure(self, references: list[str], hypotheses: list[str]) -> float:
        """Return the main metric alone, without its interval: what validation asks for, often."""

    @abstractmethod
    def score(
        self, references: list[str], hypotheses: list[str], speakers: list[str] | None
    ) -> dict[str, Score]:
        """Return the metrics with their intervals, the main one (`metric`) first."""


TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "asr": "mt4ssl_bench.downstream.tasks.asr:ASR",
        "phoneme": "mt4ssl_bench.downstream.tasks.phoneme:Phoneme",
        "speaker": "mt4ssl_bench.downstream.tasks.speaker:Speaker",
    },
)
