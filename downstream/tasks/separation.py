"""Source separation: two speakers from their mixture, by masks of its spectrum."""

from typing import ClassVar

from mt4ssl_bench.downstream.heads.masks import MaskConfig, MaskTask
from mt4ssl_bench.results.metrics import Metric


class Separation(MaskTask):
    """SUPERB's SS: two masks of a mixture of two speakers, chosen by SI-SDR improvement."""

    name: ClassVar[str] = "separation"
    superb: ClassVar[str] = "SS"
    full_hours: ClassVar[float] = 20.0  # Libri2Mix: 43 h
    metrics: ClassVar[tuple[str | Metric, ...]] = MaskConfig.measures
    reads: ClassVar[tuple[str, ...]] = ("other:s1", "other:s2")


TASK = Separation
