"""Stored means of a split in memory, from which a batch is taken at once.

Shapes: N crops of all utterances, L hidden states, B batch, D dimension.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.forward_pass import Values

LIMIT = 2**30  # bytes of a split's means that are held


def held(features: FeatureSet, names: Sequence[str]) -> FeatureSet:
    """Return the means of utterances held in memory, or as they are if they are too large.

    Live features stay as they are: each reading of them computes only the crops that it takes.
    """
    if features.identity == "live":
        return features
    rows = sum(map(features.count, names))
    if 4 * rows * features.layers * features.dim > LIMIT:
        return features
    return HeldMeans(features, names)


class HeldMeans(FeatureSet):
    """The means of a split, in memory; see held()."""

    def __init__(self, features: FeatureSet, names: Sequence[str]) -> None:
        self.features, self.identity = features, features.identity
        self.layers, self.dim = features.layers, features.dim
        ends = [0, *accumulate(map(features.count, names))]
        self._first = dict(zip(names, ends, strict=False))
        self._means = torch.empty(features.layers, ends[-1], features.dim)  # (L, N, D)
        for name, first in self._first.items():
            means = torch.from_numpy(features.get(name))
            self._means[:, first : first + means.shape[1]] = means

    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        """See FeatureSet.rows."""
        return self.features.rows(names, crops)

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        return self.features.count(name)

    def batch(
        self, names: Sequence[str], crops: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See FeatureSet.batch; of one crop each, without reading them again."""
        if crops is None:
            return super().batch(names)
        places = torch.tensor([self._first[name] for name in names]) + torch.tensor(crops)
        means = self._means.index_select(1, places)[:, :, None]  # (L, B, 1, D)
        return means, torch.ones(len(names), dtype=torch.long)
