"""Units: the k-means cluster of each frame of one layer of an upstream.

Shapes: T frames, F features, V clusters.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.data.label_store import LabelStore


class Codebook:
    """The centres of a label store, for features of the same upstream and layer.

    Args:
        folder: The label store that `mt4ssl-bench kmeans` wrote.
    """

    def __init__(self, folder: Path) -> None:
        store = LabelStore(folder)
        self.centres = torch.from_numpy(store.centres())
        self.normalize = store.info.normalize
        self.fingerprint, _, layer = store.info.features.partition(":")
        self.layer = int(layer or 0)

    def __call__(self, frames: Tensor) -> NDArray[np.int64]:
        """Return the unit of each frame (T,) of hidden states (T, F)."""
        return nearest_centre(normalized(frames, self.normalize), self.centres)


def nearest_centre(frames: Tensor, centres: Tensor) -> NDArray[np.int64]:
    """Return the index (T,) of the centre (V, F) that is nearest to each frame (T, F)."""
    # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)
    scores = frames @ centres.t() - centres.square().sum(1) / 2  # (T, V)
    nearest: NDArray[np.int64] = scores.argmax(1).numpy()
    return nearest


def normalized(frames: Tensor, how: str) -> Tensor:
    """Return frames (T, F); `how` "utterance" gives each feature mean 0 and variance 1."""
    if how == "utterance":
        return (frames - frames.mean(0)) / frames.std(0, correction=0).clamp(min=1e-5)
    return frames
