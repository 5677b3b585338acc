"""The contract between the evaluation job and a task: head, targets, loss, decoding and score, and nothing else.

Shapes: B batch, T frames, L hidden states, D dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.metrics import Score
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results import Trial
from mt4ssl_bench.store import StoreConfig


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head's sizes; the defaults of each task's recipe are SUPERB's."""

    projection: int = 256
    hidden: int = 1024  # of each LSTM direction
    lstm_layers: int = 2
    dropout: float = 0.2
    layer_norm: bool = False  # of each hidden state, before they are weighted
    spec_augment: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task recipe: SUPERB's protocol in *.yaml, fewer steps for small corpora in *_tiny.yaml."""

    about: str = ""
    task: str = ""
    head: HeadConfig = field(default_factory=HeadConfig)
    units: Literal["characters", "phonemes", "sentencepiece"] = "characters"
    vocabulary: int = 1000  # sentencepiece units
    stress: Literal["keep", "drop"] = "keep"  # of ARPAbet vowels
    sweep: tuple[float, ...] | None = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # learning rates; the best on valid is taken
    lr: float | None = None  # one learning rate instead of a sweep
    seeds: tuple[int, ...] = (0,)  # of initial weights, each at every rate; the first also orders batches and crops
    steps: int = 100_000
    batch: int = 16  # utterances
    accumulate: int = 1
    clip_norm: float = 1.0
    validate_every: int = 1_000
    patience: int = 0  # validations without a better score after which a head is not trained further; 0: never
    crop_seconds: float = 8.0  # speaker: random crops in training
    crops: int = 4  # speaker: how many per utterance are kept
    test_crop_seconds: float = 0.0  # speaker: 0 evaluates whole utterances
    store: StoreConfig = field(default_factory=StoreConfig)


def rates(config: TaskConfig) -> tuple[float, ...]:
    """Return the learning rates to train; raises ConfigError where there is none or one is not positive."""
    found = (config.lr,) if config.lr is not None else config.sweep
    if not found:
        raise ConfigError("sweep=none: then lr must name the one learning rate, for example lr=1e-2")
    if min(found) <= 0 or len(set(found)) < len(found):
        raise ConfigError(f"sweep={list(found)}: expected different learning rates above 0")
    return found


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training on a task gives, however it trains: the answers on test, and how the head was chosen.

    `references`, `hypotheses` and `cuts` are of the test split, in one order. `counts` say what was left out.
    """

    references: list[str]
    hypotheses: list[str]
    cuts: list[Any]
    trials: list[Trial]
    layer_weights: list[float]
    counts: dict[str, int] = field(default_factory=dict)


class Task(ABC):
    """A task, built from its recipe and the training split.

    Attributes:
        name, metric, version: of the record; a change that moves scores raises the version.
        needs: the field that every utterance must have: text, phones or speaker.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[str]
    pooled: ClassVar[bool] = False  # reads means over time instead of frames

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @abstractmethod
    def fit_units(self, cuts: Sequence[Any]) -> None:
        """Take units or the speaker table from the training split, and from nothing else."""

    @abstractmethod
    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a new head: (features (B, T, L, D), frames (B,)) -> (logits, lengths)."""

    @abstractmethod
    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return what a perfect hypothesis of the cut would be."""

    @abstractmethod
    def target(self, cut: Any) -> Tensor:  # noqa: ANN401
        """Return the cut's training target, a vector of ids."""

    @abstractmethod
    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return what of the cut's reference training must have shown: characters, phonemes, the speaker."""

    @abstractmethod
    def knows(self, unit: str) -> bool:
        """Return whether training shows a unit."""

    def frames_needed(self, cut: Any) -> int:  # noqa: ANN401, ARG002
        """Return the fewest frames from which the cut's target can be learnt."""
        return 1

    @abstractmethod
    def loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss of each row (B,)."""

    @abstractmethod
    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return one hypothesis per row."""

    @abstractmethod
    def measure(self, references: list[str], hypotheses: list[str]) -> float:
        """Return the main metric alone, without its interval: what validation asks for, often."""

    @abstractmethod
    def score(self, references: list[str], hypotheses: list[str], speakers: list[str] | None) -> dict[str, Score]:
        """Return the metrics with their intervals, the main one (`metric`) first."""


TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "asr": "mt4ssl_bench.downstream.asr:ASR",
        "phoneme": "mt4ssl_bench.downstream.phoneme:Phoneme",
        "speaker": "mt4ssl_bench.downstream.speaker:Speaker",
    },
)
