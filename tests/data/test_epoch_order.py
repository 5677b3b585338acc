"""The order of an epoch: everything once, little padding, no shard read twice, a million cuts in
seconds.
"""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from mt4ssl_bench.data.epoch_order import STREAMS, WINDOW, batches_of

SHARD = 64
DURATIONS = np.clip(np.random.default_rng(0).lognormal(2.0, 0.4, 200 * SHARD), 0.5, 30)
SHARDS = np.arange(len(DURATIONS)) // SHARD


def padding(durations: NDArray[np.float64], batches: list[NDArray[np.int64]]) -> float:
    padded = sum(durations[batch].max() * len(batch) for batch in batches)
    return float(1 - durations.sum() / padded)


@pytest.mark.parametrize("key", [None, (1, 0)])
@pytest.mark.parametrize("shards", [None, SHARDS])
def test_every_cut_comes_once_within_the_limits(
    key: tuple[int, int] | None, shards: NDArray[np.int64] | None
) -> None:
    batches = batches_of(DURATIONS, seconds=160, count=30, key=key, shards=shards)
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(len(DURATIONS)))
    assert all(DURATIONS[batch].max() * len(batch) <= 160 and len(batch) <= 30 for batch in batches)
    assert padding(DURATIONS, batches) < (0.02 if shards is None else 0.05)


def test_no_cut_makes_no_batch() -> None:
    assert batches_of(np.zeros(0), seconds=10, key=(0, 0)) == []


def test_a_prefix_of_the_fixed_order_is_a_sample_of_all_lengths() -> None:
    batches = batches_of(DURATIONS, seconds=160)
    heard = np.concatenate(batches[: len(batches) // 10])
    assert DURATIONS[heard].mean() == pytest.approx(DURATIONS.mean(), rel=0.1)


def test_the_neighbours_of_a_cut_change_from_epoch_to_epoch() -> None:
    def neighbours(epoch: int, cut: int) -> set[int]:
        batches = batches_of(DURATIONS, seconds=160, key=(1, epoch))
        return next(set(batch.tolist()) for batch in batches if cut in batch)

    for cut in (0, 5_000, 10_000):
        assert len(neighbours(0, cut) & neighbours(1, cut)) < len(neighbours(0, cut)) / 3


@pytest.mark.parametrize("parts", [2, 4, STREAMS])
def test_processes_and_workers_that_take_turns_read_different_shards(parts: int) -> None:
    batches = batches_of(DURATIONS, seconds=160, key=(1, 0), shards=SHARDS)
    even = batches[
        : int(0.9 * len(batches)) // parts * parts
    ]  # towards the end, streams run out one by one
    read = [
        {int(SHARDS[cut]) for batch in even[part::parts] for cut in batch} for part in range(parts)
    ]
    assert sum(map(len, read)) == len(set.union(*read))


def test_few_shards_are_open_at_a_time_and_their_order_changes() -> None:
    def opened(epoch: int) -> list[set[int]]:
        batches = batches_of(DURATIONS, seconds=160, key=(1, epoch), shards=SHARDS)
        return [{int(SHARDS[cut]) for cut in batch} for batch in batches]

    first = opened(0)
    assert max(map(len, first)) <= WINDOW
    assert len(set.union(*first[: 4 * STREAMS])) <= STREAMS * WINDOW
    assert set.union(*first[:STREAMS]) != set.union(*opened(1)[:STREAMS])


@pytest.mark.timeout(60)  # half a second; hours if it were quadratic
def test_a_million_cuts_are_put_in_order() -> None:
    durations = np.clip(np.random.default_rng(0).lognormal(2.0, 0.4, 1_000_000), 0.5, 30)
    batches = batches_of(durations, seconds=237.5, key=(1, 0))
    assert sum(map(len, batches)) == 1_000_000
