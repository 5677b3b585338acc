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


def cut_of(name: str, source: str | bytes) -> Any:
    recording = SimpleNamespace(sources=[SimpleNamespace(source=source)])
    return SimpleNamespace(id=name, start=0.0, recording=recording)


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
        assert len(cache(cut_of("a", "a.wav"))) == 4
    assert len(read) == reads


@pytest.mark.parametrize("sources", [("one/a.wav", "two/a.wav"), (b"\1\2", b"\3\4")])
def test_kept_audio_is_that_of_the_cut_and_not_of_another_with_its_id(sources: Any) -> None:
    made = iter([np.ones(4, np.float32), np.zeros(4, np.float32)])
    cache = AudioCache(lambda _: next(made), seconds=1, hours=1, workers=0)
    for _ in range(2):
        assert [cache(cut_of("a", source))[0] for source in sources] == [1, 0]
