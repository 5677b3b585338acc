"""Errors by pair of categories and by group, and their average: the ABX score of each layer.

Shapes: L layers, K entries, S groups, V categories, U entries of one a (pair and group of a and b),
R sets of weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.abx.distance import Indices

Numbers = NDArray[np.float64]
CHUNK = 2**22  # weights held at once


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers behind a score: of compared tokens, cells, ordered pairs of categories, and so on."""

    tokens: int
    cells: int
    pairs: int
    categories: int
    groups: int
    triplets: int


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of R averages, for example the multiplicities of resampled speakers.

    Attributes:
        a: Weight of each group as that of a and b (S, R).
        x: Weight of each group as that of x (S, R); has no effect "within".
        categories: Weight of each category (V, R).
    """

    a: Numbers
    x: Numbers
    categories: Numbers


@dataclass(frozen=True)
class Table:
    """Errors of one mode.

    Attributes:
        categories: Names.
        groups: Names.
        keys: Category of a and x, category of b, group of a and b, group of x (K, 4), ascending.
        cells: Number of cells of each entry (K,): contexts.
        sums: Errors of these cells, added up (L, K).
        counts: Numbers behind the score.
        across: Whether x is of another group than a.
        digest: Digest of the triplets: only scores of the same triplets are compared.
    """

    categories: tuple[str, ...]
    groups: tuple[str, ...]
    keys: Indices
    cells: Indices
    sums: Numbers
    counts: Counts
    across: bool
    digest: str

    def errors(self) -> Numbers:
        """Return the score of each layer (L,): an error rate in [0, 1], 0.5 by chance.

        Plain means (Schatz 2016; Kahn et al. 2020): over contexts and groups of x together, then
        over groups of a, then over the ordered pairs of categories. What has no triplet is left
        out.
        """
        return self.weighted(self.equal_weights())[0][:, 0]

    def pair_errors(self) -> dict[tuple[str, str], Numbers]:
        """Return the error of each layer (L,) by category of a and x, and category of b."""
        rows = self._sums.sum(axis=1) / self._cells.sum(axis=0)  # (L, U)
        number = np.diff(np.append(self._pair_starts, rows.shape[1]))
        errors = np.add.reduceat(rows, self._pair_starts, axis=1) / number
        pairs = self._rows[self._pair_starts, :2].tolist()
        names = self.categories
        return {(names[p], names[q]): errors[:, i] for i, (p, q) in enumerate(pairs)}

    def equal_weights(self) -> Weights:
        """Return the weights of errors()."""
        groups = np.ones((len(self.groups), 1))
        return Weights(a=groups, x=groups, categories=np.ones((len(self.categories), 1)))

    def weighted(self, weights: Weights) -> tuple[Numbers, Numbers]:
        """Return weighted averages (L, R), and the share of pairs without any weight (R,).

        The three means of errors() become weighted means: over entries with the weight of the group
        of x, over groups with that of a, over pairs with the product of both categories'. A pair
        without any weight is left out.
        """
        number = weights.a.shape[1]
        values, vanished = np.empty((len(self.sums), number)), np.empty(number)
        step = max(CHUNK // len(self._rows), 1)
        for start in range(0, number, step):
            part = slice(start, start + step)
            some = Weights(
                a=weights.a[:, part], x=weights.x[:, part], categories=weights.categories[:, part]
            )
            values[:, part], vanished[part] = self._average(some)
        return values, vanished

    def _average(self, weights: Weights) -> tuple[Numbers, Numbers]:
        """Return weighted() of a few sets of weights.

        The average is linear in the sums: one matrix product serves all layers.
        """
        x = weights.x if self.across else np.ones_like(weights.x)
        cells = self._cells.T @ x  # (U, R)
        rows = weights.a[self._rows[:, 2]] * (cells > 0)
        of_pair = np.add.reduceat(rows, self._pair_starts, axis=0)
        p, q = self._rows[self._pair_starts, :2].T
        pairs = weights.categories[p] * weights.categories[q] * (of_pair > 0)
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing at all has a weight
            share = pairs / np.where(of_pair > 0, of_pair, 1) / pairs.sum(axis=0)
        number = np.diff(np.append(self._pair_starts, len(rows)))
        rows *= np.repeat(share, number, axis=0)
        rows /= np.where(cells > 0, cells, 1)
        by_x = (self._sums.reshape(-1, len(rows)) @ rows).reshape(len(self.sums), *x.shape)
        averages: Numbers = (by_x * x).sum(axis=1)
        vanished: Numbers = (of_pair <= 0).mean(axis=0)
        return averages, vanished

    @cached_property
    def _row_starts(self) -> Indices:
        different = (np.diff(self.keys[:, :3], axis=0) != 0).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(different) + 1])

    @cached_property
    def _rows(self) -> Indices:
        """Category of a and x, category of b, group of a and b (U, 3)."""
        return self.keys[self._row_starts, :3]

    @cached_property
    def _pair_starts(self) -> Indices:
        different = (np.diff(self._rows[:, :2], axis=0) != 0).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(different) + 1])

    @cached_property
    def _cells(self) -> Numbers:
        """Number of cells by group of x and row (S, U)."""
        cells: Numbers = self._dense(self.cells.astype(np.float64)[None])[0]
        return cells

    @cached_property
    def _sums(self) -> Numbers:
        """Errors added up, by group of x and row (L, S, U)."""
        return self._dense(self.sums)

    def _dense(self, values: Numbers) -> Numbers:
        row = np.searchsorted(self._row_starts, np.arange(len(self.keys)), side="right") - 1
        dense = np.zeros((len(values), len(self.groups), len(self._rows)))
        dense[:, self.keys[:, 3], row] = values
        return dense


def spread(tables: Sequence[Table]) -> Numbers:
    """Return the standard deviation of each layer's score (L,) over samples of other seeds."""
    deviation: Numbers = np.std([table.errors() for table in tables], axis=0, ddof=1)
    return deviation
