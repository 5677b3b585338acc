"""Mask statistics against those measured on fairseq's function."""

import numpy as np
import pytest

from mt4ssl_bench.upstream.config import MaskingConfig
from mt4ssl_bench.upstream.masking import draw_masks


@pytest.mark.parametrize(
    ("equalize", "fraction", "slack"), [(True, 0.4193, 0.006), (False, 0.4906, 0.003)]
)
def test_the_masked_share_is_fairseqs(equalize: bool, fraction: float, slack: float) -> None:  # noqa: FBT001
    rng = np.random.default_rng(0)
    masks = [draw_masks([500] * 64, 500, MaskingConfig(equalize=equalize), rng) for _ in range(25)]
    assert np.mean([mask.float().mean().item() for mask in masks]) == pytest.approx(
        fraction, abs=slack
    )


def test_spans_are_whole_without_equalizing_and_rows_equal_with_it() -> None:
    rng = np.random.default_rng(1)
    whole = draw_masks([300, 200], 300, MaskingConfig(equalize=False), rng).numpy()
    for row, length in zip(whole, (300, 200), strict=True):
        assert not row[length:].any()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        runs = edges[1::2] - edges[::2]
        assert runs.min() >= 10
        assert not row[length - 1]  # fairseq's range leaves the last frame out
    trimmed = draw_masks([300, 200], 300, MaskingConfig(), rng)
    assert trimmed.sum(1).unique().numel() == 1


def test_short_rows_are_masked_within_their_length() -> None:
    for length in (2, 5, 9, 10, 11, 12):
        mask = draw_masks([length], length, MaskingConfig(), np.random.default_rng(length))
        assert 1 <= mask.sum() <= length


def test_the_same_generator_draws_the_same_masks() -> None:
    draws = [
        draw_masks([100, 80], 100, MaskingConfig(), np.random.default_rng((1, 2, 3)))
        for _ in range(2)
    ]
    assert draws[0].equal(draws[1])
