"""Draws depend on their key only; audio is kept in memory where there is little of it."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mt4ssl_bench.data.audio_cache import AudioCache
from mt4ssl_bench.data.draw import draw, share


def test_a_draw_is_the_one_that_runs_of_earlier_versions_made() -> None:
    digest = hashlib.blake2b(b"7 3 utterance-1", digest_size=8).digest()
    assert draw(7, 3, "utterance-1") == int.from_bytes(digest)
    assert draw("utterance-1") != draw(0, "utterance-1")


def test_shares_are_spread_evenly() -> None:
    shares = np.array([share(0, name) for name in range(2_000)])
    assert 0 <= shares.min() < shares.max() < 1
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    assert abs(counts - 200).max() < 60  # four standard deviations


@pytest.mark.parametrize(
    ("seconds", "hours", "workers", "reads"),
    [(3600.0, 1.0, 0, 1), (3601.0, 1.0, 0, 2), (3600.0, 1.0, 2, 2), (1.0, 0.0, 0, 2)],
)
def test_audio_is_read_once_where_all_of_it_may_be_kept(
    seconds: float, hours: float, workers: int, reads: int
) -> None:
    read: list[str] = []

    def load(cut: Any) -> np.ndarray:
        read.append(cut.id)
        return np.zeros(4, np.float32)

    cache = AudioCache(load, seconds=seconds, hours=hours, workers=workers)
    for _ in range(2):
        assert len(cache(SimpleNamespace(id="a"))) == 4
    assert len(read) == reads
