"""Configs of evaluation: the keys of all tasks, and sections that several tasks nest.

A task's own keys are in a subclass of TaskConfig beside its class. A record is identified by the
values that its task and mode read and that differ from their defaults, so a new key with a default
leaves every record as it is. A default is never changed: it would change what old records mean.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mt4ssl_bench.config import AT_LEAST_1, FINITE, NOT_NEGATIVE, POSITIVE, PROBABILITY, Bounds
from mt4ssl_bench.device import Arithmetic
from mt4ssl_bench.downstream.layers.single_layers import check_layers, numbers
from mt4ssl_bench.encoders.finetuning import TuneConfig
from mt4ssl_bench.features.crops import Crops, FreshCrop
from mt4ssl_bench.features.store import StoreConfig
from mt4ssl_bench.settings import FINETUNE, FROZEN, NEVER, Settings, file_digest, read_by


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The sizes of a linear head."""

    projection: int = 256  # dimension of the linear layer before the output
    layer_norm: bool = False  # layer-normalize each hidden state before they are weighted

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "projection"}


@dataclass(frozen=True, kw_only=True)
class RecurrentHeadConfig(HeadConfig):
    """The sizes of an LSTM head."""

    hidden: int = 1024  # units of each LSTM direction
    lstm_layers: int = 2  # number of LSTM layers
    dropout: float = 0.2  # probability, after each LSTM layer
    spec_augment: bool = False  # warp and mask the features in training (SpecAugment)

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "hidden lstm_layers", PROBABILITY: "dropout"}


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig(HeadConfig):
    """The sizes of an LSTM head that predicts masks of spectra."""

    projection: int = 0  # dimension of a linear layer before the LSTM; 0: none
    hidden: int = 896  # units of each LSTM direction
    lstm_layers: int = 3  # number of LSTM layers
    dropout: float = 0.5  # probability, between LSTM layers

    BOUNDS: ClassVar[Bounds] = {
        NOT_NEGATIVE: "projection",
        AT_LEAST_1: "hidden lstm_layers",
        PROBABILITY: "dropout",
    }


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Beam search with an n-gram model of units; the defaults are SUPERB's (asr/config.yaml)."""

    lm: str = ""  # path of a KenLM file, ARPA or binary; without one, decoding is greedy
    beam: int = 5  # number of hypotheses that are kept
    threshold: float = 25.0  # hypotheses worse than the best one by more than this are dropped
    lm_weight: float = 2.0  # factor of the language model's log probability
    tune: bool = False  # choose lm_weight (and word_score) on valid, from a small grid

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "beam", POSITIVE: "threshold", FINITE: "lm_weight"}


@dataclass(frozen=True, kw_only=True)
class WordDecodeConfig(DecodeConfig):
    """Beam search over words that the units spell."""

    lexicon: str = ""  # path of a file whose lines begin with a word; default: the training words
    word_score: float = -1.0  # added to the score for each word

    BOUNDS: ClassVar[Bounds] = {FINITE: "word_score"}


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The keys of every task, and all of a task without training."""

    about: str = field(default="", metadata=NEVER)
    task: str = field(default="", metadata=NEVER)  # an identity has task and mode anyway
    mode: Literal["frozen", "finetune"] = field(default="frozen", metadata=NEVER)
    store: StoreConfig = field(default_factory=StoreConfig, metadata=FROZEN)
    # arithmetic of a frozen upstream's products: other numbers, never ranked with those of fp32
    pass_precision: Arithmetic = field(default="fp32", metadata=FROZEN)

    def unread(self) -> set[str]:
        """Return the keys that other values make meaningless (decode.beam without decode.lm)."""
        return set()

    def files(self) -> dict[str, str]:
        """Return digests of the files that keys name; raises BenchError for an unusable one."""
        return {}

    def settings(self) -> Settings:
        """Return all values that task and mode read, by dotted key; files are their digests."""
        values, unread = read_by(self, self.mode) | self.files(), self.unread()
        return {key: value for key, value in values.items() if key not in unread}

    def identity(self) -> Settings:
        """Return the settings that differ from the defaults."""
        defaults = read_by(type(self)(), self.mode)
        return {k: value for k, value in self.settings().items() if value != defaults[k]}

    def crops_of(self, role: str) -> Crops | FreshCrop | None:  # noqa: ARG002 - few tasks crop
        """Return the crops of each utterance of "train", "valid" or "test"; None: all frames.

        A FreshCrop in training runs the upstream on every batch, once for all heads.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class TaskConfig(BaseConfig):
    """The keys of every task that trains."""

    head: HeadConfig = field(default_factory=HeadConfig, metadata=FROZEN)
    # heads on single hidden states instead of their weighted sum: a range such as 4-9, or all
    layers: str = field(default="", metadata=FROZEN)
    layer: int | None = field(default=None, metadata=NEVER)  # the same for one hidden state
    # learning rates, trained together; the best on the validation split is selected
    sweep: tuple[float, ...] | None = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    lr: float | None = field(default=None, metadata=NEVER)  # one learning rate instead of a sweep
    # seeds of initial weights; several give mean and spread. The first orders data of frozen heads
    seeds: tuple[int, ...] = (0,)
    steps: int = 100_000  # number of updates
    batch: int = field(default=16, metadata=FROZEN)  # utterances per batch
    accumulate: int = 1  # batches per update
    clip_norm: float = 1.0  # maximal norm of a head's gradient; 0 does not clip
    validate_every: int = 1_000  # updates between validations
    # validations without a better score after which training stops; 0: never
    patience: int = field(default=0, metadata=FROZEN)
    tune: TuneConfig = field(default_factory=TuneConfig, metadata=FINETUNE)

    BOUNDS: ClassVar[Bounds] = {
        AT_LEAST_1: "steps batch accumulate validate_every",
        NOT_NEGATIVE: "clip_norm patience",
    }

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to train."""
        return (self.sweep or ()) if self.lr is None else (self.lr,)

    def single_layers(self, num_layers: int) -> list[int]:
        """Return the hidden states that heads are trained on, each by itself; none: on their sum.

        Raises:
            ConfigError: For a wrong key, or an upstream with fewer hidden states.
        """
        return numbers(check_layers(self.layer, self.layers), num_layers)

    def settings(self) -> Settings:
        """See BaseConfig.settings."""
        settings = super().settings() | {"sweep": list(self.rates)}
        if "layers" in settings:
            settings["layers"] = check_layers(self.layer, self.layers)
        return settings

    def identity(self) -> Settings:
        """See BaseConfig.identity.

        Records of several seeds had the score of the best one, and all seeds of a fine-tuning the
        order of the first.
        """
        mean = "mean" if self.mode == "frozen" else "mean, each in its own order"
        return super().identity() | ({"over_seeds": mean} if len(self.seeds) > 1 else {})


@dataclass(frozen=True, kw_only=True)
class CTCConfig(TaskConfig):
    """The keys of tasks that predict sequences of units."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)

    def unread(self) -> set[str]:
        """See TaskConfig.unread."""
        if not self.decode.lm:
            return {f"decode.{name}" for name in read_by(self.decode, self.mode)}
        return {"decode.lm_weight", "decode.word_score"} if self.decode.tune else set()

    def files(self) -> dict[str, str]:
        """See TaskConfig.files."""
        names = [name for name in ("lm", "lexicon") if hasattr(self.decode, name)]
        keys = {f"decode.{name}": getattr(self.decode, name) for name in names if self.decode.lm}
        return {key: file_digest(path, key) for key, path in keys.items()}
