"""Speech enhancement: clean speech from noisy speech, by a mask of its spectrum."""

from dataclasses import dataclass
from typing import ClassVar

from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.heads.masks import MaskConfig, MaskTask
from mt4ssl_bench.results.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class EnhancementConfig(MaskConfig):
    """The keys of speech enhancement."""

    # what is measured on test; the first one selects on valid, and ranks
    measures: tuple[str, ...] = ("pesq", "stoi", "si_sdri")


class Enhancement(MaskTask):
    """SUPERB's SE: a mask of noisy speech, chosen by PESQ."""

    name: ClassVar[str] = "enhancement"
    superb: ClassVar[str] = "SE"
    full_hours: ClassVar[float] = 5.0  # VoiceBank-DEMAND: 9 h
    metrics: ClassVar[tuple[str | Metric, ...]] = EnhancementConfig.measures
    reads: ClassVar[tuple[str, ...]] = ("other:clean",)
    Config: ClassVar[type[TaskConfig]] = EnhancementConfig


TASK = Enhancement
