"""The contract between the evaluation job and a task: head, targets, loss, decoding and score, and nothing else.

Shapes: B batch, T frames, L hidden states, D dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.metrics import Score
from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results import Trial
from mt4ssl_bench.store import StoreConfig
from mt4ssl_bench.tuning import TuneConfig

Answers = tuple[list[Any], Tensor, Tensor]  # cuts, logits (B, T, V), lengths (B,)


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
class DecodeConfig:
    """Beam search with an n-gram language model; the defaults are SUPERB's (s3prl's asr/config.yaml)."""

    lm: str = ""  # a KenLM file, ARPA or binary; without one decoding is greedy
    lexicon: str = (
        ""  # a file whose lines begin with a word; default: the words of the training split
    )
    beam: int = 5
    threshold: float = 25.0  # hypotheses worse than the best one by more than this are dropped
    lm_weight: float = 2.0
    word_score: float = -1.0  # added for each word
    tune: bool = False  # choose lm_weight and word_score on valid, from a small grid


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task recipe: SUPERB's protocol in *.yaml, fewer steps for small corpora in *_tiny.yaml."""

    about: str = ""
    task: str = ""
    head: HeadConfig = field(default_factory=HeadConfig)
    units: Literal["characters", "phonemes", "sentencepiece"] = "characters"
    vocabulary: int = 1000  # sentencepiece units
    stress: Literal["keep", "drop"] = "keep"  # of ARPAbet vowels
    sweep: tuple[float, ...] | None = (
        1e-1,
        1e-2,
        1e-3,
        1e-4,
        1e-5,
    )  # learning rates; the best on valid is taken
    lr: float | None = None  # one learning rate instead of a sweep
    seeds: tuple[int, ...] = (
        0,
    )  # of initial weights, each at every rate; the first also orders batches and crops
    steps: int = 100_000
    batch: int = 16  # utterances
    accumulate: int = 1
    clip_norm: float = 1.0
    validate_every: int = 1_000
    patience: int = (
        0  # validations without a better score after which a head is not trained further; 0: never
    )
    crop_seconds: float = 8.0  # speaker: random crops in training
    crops: int = 4  # speaker: how many per utterance are kept
    test_crop_seconds: float = 0.0  # speaker: 0 evaluates whole utterances
    store: StoreConfig = field(default_factory=StoreConfig)
    mode: Literal["frozen", "finetune"] = (
        "frozen"  # finetune trains the upstream with a linear head of its own
    )
    tune: TuneConfig = field(default_factory=TuneConfig)  # read where mode is finetune
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    lexicon: str = (
        ""  # phoneme: a file of words and phones, or cmudict; default: the corpus's own phones
    )
    pronunciations: Literal["first", "all"] = "first"  # all: scoring takes what fits best


def rates(config: TaskConfig) -> tuple[float, ...]:
    """Return the learning rates to train; raises ConfigError where there is none or one is not positive."""
    found = (config.lr,) if config.lr is not None else config.sweep
    if not found:
        raise ConfigError(
            "sweep=none: then lr must name the one learning rate, for example lr=1e-2"
        )
    if min(found) <= 0 or len(set(found)) < len(found):
        raise ConfigError(f"sweep={list(found)}: expected different learning rates above 0")
    return found


@dataclass(frozen=True, kw_only=True)
class WithLM:
    """The answers on test once more, by beam search with a language model, and the weights that it had."""

    hypotheses: list[str]
    lm_weight: float
    word_score: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training on a task gives, however it trains: the answers on test, and how the head was chosen.

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
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[str]
    unit_kinds: ClassVar[
        tuple[str, ...]
    ] = ()  # what the recipe's `units` may be; none where it is not read
    pooled: ClassVar[bool] = False  # reads means over time instead of frames

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @classmethod
    def reads(cls, config: TaskConfig) -> str:  # noqa: ARG003 - most tasks read the same field under every recipe
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
        """Return a new head: (features (B, T, L, D), frames (B,)) -> (logits, lengths)."""

    @abstractmethod
    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return what a perfect hypothesis of the cut would be, and what training shows."""

    def references(self, cuts: Sequence[Any], hypotheses: Sequence[str]) -> list[str]:  # noqa: ARG002
        """Return what each hypothesis is scored against: where a cut allows several, the nearest."""
        return [self.reference(cut) for cut in cuts]

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

    def summed_loss(self, logits: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the loss as a sum over utterances, each as it is: fine-tuning's."""
        return self.loss(logits, lengths, targets).sum()

    @abstractmethod
    def decode(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Return one hypothesis per row."""

    def answer_with_lm(self, logits: Callable[[str], Iterable[Answers]]) -> WithLM | None:  # noqa: ARG002
        """Return the test split's hypotheses with the recipe's language model; None where there is none to use.

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
        "asr": "mt4ssl_bench.downstream.asr:ASR",
        "phoneme": "mt4ssl_bench.downstream.phoneme:Phoneme",
        "speaker": "mt4ssl_bench.downstream.speaker:Speaker",
    },
)
