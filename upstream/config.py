"""A pretraining recipe: the defaults are the paper's Base model (Ma et al., arXiv 2211.07321)."""

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.config import NOT_NEGATIVE, Bounds, check_all_bounds
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.training.fit import FitConfig
from mt4ssl_bench.training.optim import OptimConfig
from mt4ssl_bench.upstream.batches import DataConfig
from mt4ssl_bench.upstream.encoder import EncoderConfig
from mt4ssl_bench.upstream.frontend import FrontendConfig
from mt4ssl_bench.upstream.masking import MaskingConfig
from mt4ssl_bench.upstream.targets import OnlineTargets, TargetConfig


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """A section for each target extractor; recipe.schema() adds those of other packages."""

    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineTargets.Config = field(default_factory=OnlineTargets.Config)

    def sections(self) -> dict[str, TargetConfig]:
        """Return the sections by name."""
        return {section.name: getattr(self, section.name) for section in fields(self)}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    about: str = ""
    # whose weights the run starts from: a run folder or checkpoint, or "mt4ssl", which ships
    init: str | None = None
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    collapse_step: int = 5_000  # update from which on collapsed targets or predictions stop the run
    min_target_var: float = 0.1  # standard deviation below which targets count as collapsed
    min_pred_var: float = 0.01  # standard deviation below which predictions count as collapsed
    # tokens of the valid split whose ABX is logged at each validation; 0: no ABX
    abx_tokens: int = 0

    BOUNDS: ClassVar[Bounds] = {NOT_NEGATIVE: "abx_tokens"}


def check(config: PretrainConfig) -> PretrainConfig:
    """Return `config`.

    Raises:
        ConfigError: If a value is out of its bounds or does not fit another one.
    """
    check_all_bounds(config)
    encoder, data = config.encoder, config.data
    for name in ("heads", "pos_groups"):
        parts = getattr(encoder, name)
        if encoder.dim % parts:
            raise ConfigError(
                f"encoder.{name}={parts}: encoder.dim={encoder.dim} is not divisible by it"
            )
    if encoder.pos_kernel % 2 == 0:
        raise ConfigError(f"encoder.pos_kernel={encoder.pos_kernel}: must be odd")
    sections = config.targets.sections()
    for name, section in sections.items():
        if not 0 <= section.weight < math.inf:
            raise ConfigError(f"targets.{name}.weight={section.weight}: expected 0 or more")
    if not any(section.weight for section in sections.values()):
        raise ConfigError("targets: all weights are 0; leave at least one extractor")
    masking, optim = config.masking, config.optim
    shortest = config.frontend.frame_count(int(data.min_seconds * RATE))
    # a batch without a masked frame teaches nothing
    if not masking.min_masks and masking.prob * shortest < masking.length:
        raise ConfigError(
            f"masking.min_masks=0: expected 1 or more; with masking.prob={masking.prob}, "
            f"utterances of {data.min_seconds} s may have no mask"
        )
    if optim.schedule == "tri_stage" and not optim.final_scale:  # its decay is exponential
        raise ConfigError(f"optim.final_scale={optim.final_scale}: expected a number above 0")
    if data.max_seconds <= data.min_seconds:
        raise ConfigError(
            f"data.max_seconds={data.max_seconds}: must be over data.min_seconds={data.min_seconds}"
        )
    return config
