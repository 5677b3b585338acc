"""The reference nearest to a hypothesis where words have several pronunciations (sclite scores alternatives so)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def nearest(words: Sequence[Sequence[str]], hypothesis: str) -> str:
    """Return one pronunciation of each word, together the fewest edits from the hypothesis; of equals, the earlier.

    A pronunciation is tokens separated by spaces, and so is the hypothesis (H tokens). The edit distance is kept for
    every start of the hypothesis at once, word by word; each distance carries, in one integer, which variant of the
    last word it came by and how much of the hypothesis came before that word, so that a minimum brings both along.
    """
    if all(len(variants) == 1 for variants in words):
        return " ".join(variants[0] for variants in words)
    said = np.array(hypothesis.split(), dtype=np.str_)
    ends = np.arange(len(said) + 1)
    costs = ends  # edits from nothing to said[:end]
    steps: list[
        tuple[NDArray[np.int64], NDArray[np.int64]]
    ] = []  # of each word: variant and start, by end
    for variants in words:
        unit = len(ends) * len(variants)  # one edit; below it, variant * len(ends) + start
        packed = [
            _aligned(costs * unit + i * len(ends) + ends, v.split(), said, unit)
            for i, v in enumerate(variants)
        ]
        best = np.min(packed, axis=0)
        costs, variant, start = best // unit, best % unit // len(ends), best % len(ends)
        steps.append((variant, start))
    chosen, end = [], len(said)
    for variants, (variant, start) in zip(reversed(words), reversed(steps), strict=True):
        chosen.append(variants[variant[end]])
        end = start[end]
    return " ".join(reversed(chosen))


def _aligned(
    row: NDArray[np.int64], tokens: Sequence[str], said: NDArray[np.str_], unit: int
) -> NDArray[np.int64]:
    """Return the costs (H + 1,) after more reference tokens; one edit adds `unit`."""
    inserted = np.arange(len(row)) * unit
    for token in tokens:
        deleted = row + unit
        deleted[1:] = np.minimum(deleted[1:], row[:-1] + (said != token) * unit)
        row = np.minimum.accumulate(deleted - inserted) + inserted
    return row
