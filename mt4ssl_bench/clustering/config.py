"""Settings of the offline targets' labels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mt4ssl_bench.config import AT_LEAST_1, Bounds

MOST = 65_536  # clusters: labels are stored in 16 bits


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """k-means labels, predicted by cross entropy (as HuBERT)."""

    weight: float = 1.0  # factor of this loss; 0 leaves the extractor out
    clusters: int = 500  # number of labels
    features: str = "mfcc"  # or any upstream that evaluate takes: a run folder, a hub name
    layer: int = -1  # hidden state of the upstream; -1: the last one
    # "utterance": mean 0 and variance 1 of each feature over its utterance
    normalize: Literal["none", "utterance"] = "none"
    max_frames: int = 2_000_000  # about as many frames, a seeded sample, is k-means fitted on
    labels: str | None = None  # path of a label store; null: made from the corpus

    BOUNDS: ClassVar[Bounds] = {
        (f"2 to {MOST}", lambda clusters: 2 <= clusters <= MOST): "clusters",
        AT_LEAST_1: "max_frames",
    }
