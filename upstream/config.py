"""What a pretraining recipe may say: the defaults are the paper's Base model (Ma et al., arXiv
2211.07321).
"""

from dataclasses import dataclass, field

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.config import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SHARE,
    SHARES,
    Bounds,
    check_bounds,
)
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.training.fit import FitConfig
from mt4ssl_bench.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """The convolutional front end: seven layers, total stride 320 samples, receptive field 400."""

    channels: int = 512
    normalize: bool = True  # layer-norm each whole waveform before it is cropped


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The post-LayerNorm Transformer with a stack of positional convolutions before it."""

    layers: int = 12
    dim: int = 768
    ffn: int = 3072
    heads: int = 12
    pos_depth: int = 5
    pos_kernel: int = 19
    pos_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Span masks over frames, as fairseq's static masks."""

    prob: float = 0.65
    length: int = 10
    min_masks: int = 1
    equalize: bool = True  # trim every row to the fewest masked frames of the batch, as published
    # masked views of each utterance per pass; front end and teacher run once for all
    clones: int = 1


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """An EMA teacher's layer average, predicted by regression (data2vec's way)."""

    weight: float = 1.0  # 0 leaves the extractor out
    top_k: int = 8
    ema_start: float = 0.999
    ema_end: float = 0.9999
    ema_steps: int = 30_000


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """Which target extractors the student is trained on."""

    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which audio, and how it is batched."""

    corpus: tuple[str, ...] = ()
    train: str = "train"
    valid: str = "valid"
    min_seconds: float = 2.0  # shorter utterances are left out, and counted
    max_seconds: float = 20.0  # longer ones are cropped at a random place
    batch_seconds: float = 237.5  # audio per update and process, padding included
    workers: int = 4  # loader processes; 0 loads in the trainer itself
    # share of the utterances that may be unreadable (one always may) before a run stops
    max_unreadable: float = 0.001
    # with workers=0, keep this much decoded audio in memory (230 MB per hour)
    cache_hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    about: str = ""
    # a run folder or checkpoint whose weights the run starts from; read again on resume
    init: str | None = None
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    # from here on, the run stops when targets or predictions have collapsed
    collapse_step: int = 5_000
    min_target_var: float = 0.1
    min_pred_var: float = 0.01


BOUNDS: Bounds = {
    AT_LEAST_1: "fit.steps fit.accumulate fit.log_every fit.save_every fit.validate_every "
    "frontend.channels encoder.layers encoder.dim encoder.ffn encoder.heads encoder.pos_groups "
    "encoder.pos_kernel masking.length masking.clones targets.online.top_k "
    "targets.online.ema_steps targets.offline.max_frames",
    POSITIVE: "optim.lr optim.eps data.batch_seconds",
    NOT_NEGATIVE: "optim.weight_decay optim.clip_norm optim.init_scale optim.final_scale "
    "encoder.pos_depth masking.min_masks targets.offline.weight targets.online.weight data.workers "
    "data.max_unreadable data.cache_hours",
    PROBABILITY: "encoder.dropout encoder.attention_dropout encoder.activation_dropout "
    "encoder.layer_drop",
    SHARE: "targets.online.ema_start targets.online.ema_end",
    SHARES: "optim.phases",
}


def check(config: PretrainConfig) -> PretrainConfig:
    """Return `config` unchanged if its values fit together.

    Raises ConfigError naming the key that does not.
    """
    check_bounds(config, BOUNDS)
    encoder, targets, data = config.encoder, config.targets, config.data
    for name in ("heads", "pos_groups"):
        parts = getattr(encoder, name)
        if encoder.dim % parts:
            raise ConfigError(
                f"encoder.{name}={parts}: encoder.dim={encoder.dim} is not divisible by it"
            )
    if encoder.pos_kernel % 2 == 0:
        raise ConfigError(f"encoder.pos_kernel={encoder.pos_kernel}: must be odd")
    if targets.online.top_k > encoder.layers:
        raise ConfigError(
            f"targets.online.top_k={targets.online.top_k}: encoder.layers is {encoder.layers}"
        )
    if targets.offline.weight == 0 and targets.online.weight == 0:
        raise ConfigError("targets: both weights are 0; leave at least one extractor")
    if targets.offline.clusters < 2:
        raise ConfigError(
            f"targets.offline.clusters={targets.offline.clusters}: must be at least 2"
        )
    if not 0 < config.masking.prob <= 1:
        raise ConfigError(f"masking.prob={config.masking.prob}: must lie in (0, 1]")
    if data.min_seconds < 0.05:
        raise ConfigError(f"data.min_seconds={data.min_seconds}: must be at least 0.05")
    if data.max_seconds <= data.min_seconds:
        raise ConfigError(
            f"data.max_seconds={data.max_seconds}: must be over data.min_seconds={data.min_seconds}"
        )
    return config
