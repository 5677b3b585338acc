"""Settings of the offline targets: what is clustered, and into how many."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OfflineConfig:
    """k-means labels, predicted by cross entropy (HuBERT's way)."""

    weight: float = 1.0  # 0 leaves the extractor out
    clusters: int = 500
    features: str = "mfcc"  # or any upstream that evaluate knows: a run folder, a hub name
    layer: int = -1  # of that upstream's hidden states
    normalize: Literal["none", "utterance"] = (
        "none"  # mean and variance of each feature over its utterance
    )
    max_frames: int = 2_000_000  # frames that k-means is fitted on, a seeded sample
    labels: str | None = None  # a label store; made from the corpus when not given
