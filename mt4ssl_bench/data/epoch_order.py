"""The order of an epoch, from durations only: similar lengths together, fast for a million cuts.

Shapes: N cuts, S shards.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

JITTER = 0.03  # random stretch of lengths before they are sorted: padding stays near 2 %
STREAMS = 8  # shards are read in so many places at once; ranks and workers take turns over them
WINDOW = 8  # shards of one stream that are shuffled together


def batches_of(
    durations: NDArray[np.float64],
    *,
    seconds: float | None = None,
    count: int | None = None,
    key: tuple[int, int] | None = None,
    shards: NDArray[np.int64] | None = None,
) -> list[Places]:
    """Return which cuts make each batch of an epoch, in order.

    Args:
        durations: (N,) in seconds.
        seconds: of a batch at most, padding counted; a longer cut makes a batch of its own.
        count: of cuts in a batch at most.
        key: seed and epoch of a shuffled order; None: the same order each time, its batches mixed
            all the same, so that the first few are a sample of all.
        shards: (N,) the shard of each cut; cuts are then shuffled within a few shards at a time.
    """
    generator = np.random.default_rng(key if key is not None else (0, 0))

    def window(places: Places) -> list[Places]:
        """Cut one window into batches of neighbours in length, in random order."""
        lengths = durations[places]
        if key is not None:
            mixed = generator.permutation(len(places))
            places, lengths = places[mixed], lengths[mixed]
            near = np.argsort(
                lengths * generator.uniform(1, 1 + JITTER, len(lengths)), kind="stable"
            )
        else:
            near = np.argsort(lengths, kind="stable")
        borders = _borders(lengths[near].tolist(), seconds, count)
        batches = [part for part in np.split(places[near], borders) if len(part)]
        return [batches[i] for i in generator.permutation(len(batches))]

    if shards is None:
        return window(np.arange(len(durations)))
    streams = [
        chain.from_iterable(map(window, one))
        for one in _streams(shards, generator, shuffle=key is not None)
    ]
    return [batch for turn in zip_longest(*streams) for batch in turn if batch is not None]


def _borders(lengths: Sequence[float], seconds: float | None, count: int | None) -> list[int]:
    """Return where a batch ends and the next begins: each takes as many neighbours as fit."""
    borders = []
    size, longest = 0, 0.0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if size and (
            (count is not None and size >= count)
            or (seconds is not None and longest * (size + 1) > seconds)
        ):
            borders.append(place)
            size, longest = 0, length
        size += 1
    return borders


def _streams(
    shards: NDArray[np.int64], generator: np.random.Generator, *, shuffle: bool
) -> list[Iterator[Places]]:
    """Return streams of windows; every shard is in one window of one stream.

    Batch j of the epoch comes from stream j modulo their number, so that a process or worker that
    takes every W-th batch reads every W-th stream, and no shard twice, where W divides STREAMS.
    """
    by_shard = np.argsort(shards, kind="stable")
    members = np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1)
    order = generator.permutation(len(members)) if shuffle else np.arange(len(members))

    def windows(first: int) -> Iterator[Places]:
        mine = order[first::STREAMS]
        for start in range(0, len(mine), WINDOW):
            yield np.concatenate([members[shard] for shard in mine[start : start + WINDOW]])

    return [windows(first) for first in range(min(STREAMS, len(members)))]
