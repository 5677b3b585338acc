"""Frame labels: which corpora and codebook they belong to, and how they are joined with audio."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.errors import CheckpointError

FORMAT = 1
AGAIN = "run 'mt4ssl-bench kmeans' into another --out"
FRAME_RATE = 50  # labels per second: one per frame of the front end


@dataclass(frozen=True, kw_only=True)
class LabelInfo:
    """labels.json: where the labels come from."""

    format: int = FORMAT
    digest: str  # of the corpora
    clusters: int
    frame_rate: int = FRAME_RATE
    features: str = ""  # "mfcc", or "<an upstream's fingerprint>:<layer>"
    normalize: str = "none"  # of the features, before they met the centres
    frames: int = 0
    made_by: str = ""  # digest of the corpora and of every key that the labels depend on
    report: dict[str, float] = field(default_factory=dict)


def first_labels(
    values: NDArray[np.uint16], frames: int, name: str, where: str, clusters: int
) -> NDArray[np.uint16]:
    """Return the first `frames` labels of an utterance; raises CheckpointError for too few."""
    if len(values) and int(values.max()) >= clusters:
        raise CheckpointError(
            f"{where}: utterance '{name}' has label {values.max()} of {clusters} clusters; {AGAIN}"
        )
    if len(values) < frames:
        raise CheckpointError(
            f"{where}: utterance '{name}' has {len(values)} labels for {frames} frames at "
            f"{FRAME_RATE} Hz; made from other audio or at another frame rate"
        )
    return values[:frames]


def check_origin(info: LabelInfo, where: str, digest: str, clusters: int) -> None:
    """Raise CheckpointError for labels of another corpus, codebook or frame rate."""
    if info.digest != digest:
        raise CheckpointError(
            f"{where}: made from another corpus ({info.digest}, not {digest}); {AGAIN}"
        )
    if info.clusters != clusters:
        raise CheckpointError(
            f"targets.offline.clusters={clusters}: {where} has {info.clusters} clusters; {AGAIN}"
        )
    if info.frame_rate != FRAME_RATE:
        raise CheckpointError(f"{where}: {info.frame_rate} Hz, expected {FRAME_RATE}; {AGAIN}")
