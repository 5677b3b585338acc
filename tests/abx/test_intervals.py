"""Intervals over speakers: weights against counting again, coverage in a simulation, few speakers."""

import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from mt4ssl_bench.abx.intervals import replicate, t_quantile
from mt4ssl_bench.abx.table import Counts, Table, Weights
from mt4ssl_bench.errors import ConfigError

COUNTS = Counts(tokens=0, cells=0, pairs=0, categories=0, groups=0, triplets=0)


def table_of(
    errors: np.ndarray, keys: np.ndarray, cells: np.ndarray, *, across: bool, digest: str = "d"
) -> Table:
    categories = tuple(f"p{i}" for i in range(keys[:, :2].max() + 1))
    groups = tuple(f"s{i:02}" for i in range(keys[:, 2:].max() + 1))
    return Table(categories, groups, keys, cells, errors * cells, COUNTS, across, digest)


def simulated(
    rng: np.random.Generator, speakers: int, layers: int = 1, *, across: bool, density: float = 1.0
) -> Table:
    """Errors with an effect of the pair, the speakers of a and x, and the cell."""
    categories = 6
    keys = np.array(
        [
            (p, q, s, x)
            for p, q in itertools.permutations(range(categories), 2)
            for s in range(speakers)
            for x in range(speakers)
            if (s != x) == across and rng.random() < density
        ]
    )
    pair = np.linspace(0.05, 0.35, categories)
    effect_a, effect_x = rng.normal(0, 0.05, (2, layers, speakers))
    errors = 0.2 + pair[keys[:, 0]] * 0.3 + pair[keys[:, 1]] * 0.3 + effect_a[:, keys[:, 2]]
    if across:
        errors += effect_x[:, keys[:, 3]]
    errors += rng.normal(0, 0.05, errors.shape)
    return table_of(errors, keys, rng.integers(1, 4, len(keys)), across=across)


TRUTH = 0.2 + 2 * 0.2 * 0.3  # the mean of simulated() over all speakers


# of none and of half of n trials (Wilson 1927)
WILSON = [
    (0.0, {5: 0.0, 6: 0.0, 12: 0.0}, {5: 0.4345, 6: 0.3903, 12: 0.2425}),
    (0.5, {5: 0.1704, 6: 0.1876, 12: 0.2538}, {5: 0.8296, 6: 0.8124, 12: 0.7462}),
]


def plain_average(table: Table, a: np.ndarray, x: np.ndarray, c: np.ndarray) -> float:
    """The weighted means of the definition, entry by entry."""
    rows: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)
    for key, cells, total in zip(table.keys.tolist(), table.cells, table.sums[0], strict=True):
        weight = x[key[3]] if table.across else 1.0
        rows[tuple(key[:3])].append((weight * total, weight * cells))
    pairs: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)
    for (p, q, s), each in rows.items():
        total, cells = np.sum(each, axis=0)
        if cells > 0:
            pairs[p, q].append((a[s] * total / cells, a[s]))
    means = []
    for (p, q), each in pairs.items():
        total, weight = np.sum(each, axis=0)
        if weight > 0:
            means.append((c[p] * c[q] * total / weight, c[p] * c[q]))
    value, weight = np.sum(means, axis=0)
    return float(value / weight)


@pytest.mark.parametrize("mode", ["within", "across"])
def test_weighted_averages_are_those_of_a_plain_program(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt4ssl_bench.abx.table.CHUNK", 500)
    rng = np.random.default_rng(0)
    table = simulated(rng, 4, across=mode == "across", density=0.3)
    a, x = rng.integers(0, 3, (2, 4, 20)).astype(float)
    a[0], x[1] = 1.0, 1.0
    categories = rng.integers(1, 3, (6, 20)).astype(float)
    values, vanished = table.weighted(Weights(a=a, x=x, categories=categories))
    expected = [plain_average(table, a[:, r], x[:, r], categories[:, r]) for r in range(20)]
    np.testing.assert_allclose(values[0], expected, atol=1e-12)
    assert vanished.min() >= 0
    assert vanished.max() > 0


def test_removing_a_speaker_is_scoring_without_it() -> None:
    table = simulated(np.random.default_rng(0), 6, 2, across=True, density=0.7)
    replicates = replicate(table)
    assert replicates.method == "jackknife"
    for speaker in range(6):
        kept = (table.keys[:, 2:] != speaker).all(axis=1)
        without = replace(
            table, keys=table.keys[kept], cells=table.cells[kept], sums=table.sums[:, kept]
        )
        np.testing.assert_allclose(replicates.values[:, speaker], without.errors(), atol=1e-12)


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("speakers", [5, 10])
def test_about_nineteen_of_twenty_intervals_hold_the_truth(speakers: int, mode: str) -> None:
    rng = np.random.default_rng(speakers)
    hits = 0
    for _ in range(400):
        table = simulated(rng, speakers, across=mode == "across")
        interval = replicate(table, samples=400).interval(0)
        hits += interval.low <= TRUTH <= interval.high
    assert 0.9 <= hits / 400 <= 0.98  # 95 % but for chance and few speakers


def test_what_speakers_share_cancels_in_a_difference() -> None:
    rng = np.random.default_rng(0)
    table = simulated(rng, 20, across=True)
    better = replace(
        table, sums=table.sums - table.cells * rng.normal(0.01, 0.01, len(table.cells))
    )
    both = replicate(table), replicate(better)
    value, interval = both[0].difference(0, both[1], 0)
    assert interval.low < value < interval.high
    assert interval.low > 0
    assert interval.high < 0.02
    single = both[0].interval(0)
    assert single.high - single.low > 5 * (interval.high - interval.low)
    same, nothing = both[0].difference(0, both[0], 0)
    share = 1 - 0.025 ** (
        1 / both[0].speakers
    )  # of other speakers, who may differ (Clopper, Pearson)
    assert same == 0
    assert (nothing.low, nothing.high) == pytest.approx((-share, share))
    assert nothing.method == "exact"


@pytest.mark.parametrize("speakers", [5, 6, 12])
@pytest.mark.parametrize(("score", "low", "high"), WILSON)
def test_speakers_who_are_all_alike_do_not_make_a_score_certain(
    speakers: int, score: float, low: dict[int, float], high: dict[int, float]
) -> None:
    table = simulated(np.random.default_rng(0), speakers, across=True)
    alike = replace(table, sums=score * table.cells[None])
    interval = replicate(alike).interval(0)
    assert interval.method == "wilson"
    ends = (interval.low, interval.high)
    assert ends == pytest.approx((low[speakers], high[speakers]), abs=1e-4)


def test_scores_of_other_triplets_are_not_compared() -> None:
    table = simulated(np.random.default_rng(0), 12, across=True)
    other = replicate(replace(table, digest="other"))
    with pytest.raises(ConfigError, match="different triplets cannot be compared"):
        replicate(table).difference(0, other, 0)
    with pytest.raises(ConfigError, match="the same items, settings and samples"):
        replicate(table).difference(0, replicate(table, samples=10), 0)


@pytest.mark.parametrize("speakers", [1, 4])
def test_few_speakers_give_a_range_and_no_interval(speakers: int) -> None:
    table = simulated(np.random.default_rng(0), speakers, across=False)
    interval = replicate(table).interval(0)
    single = []
    for speaker in range(speakers):
        kept = table.keys[:, 2] == speaker
        rows = replace(
            table, keys=table.keys[kept], cells=table.cells[kept], sums=table.sums[:, kept]
        )
        single.append(rows.errors()[0])
    assert (interval.method, interval.speakers) == ("range", speakers)
    assert (interval.low, interval.high) == pytest.approx((min(single), max(single)))


def test_pairs_that_vanish_are_reported() -> None:
    table = simulated(np.random.default_rng(0), 12, across=False, density=0.2)
    interval = replicate(table).interval(0)
    pairs = {tuple(key[:2]) for key in table.keys.tolist()}
    speakers = [len({k[2] for k in table.keys.tolist() if tuple(k[:2]) == pair}) for pair in pairs]
    expected = np.mean([(1 - n / 12) ** 12 for n in speakers])  # no speaker of the pair is drawn
    assert interval.vanished == pytest.approx(expected, abs=0.02)
    assert replicate(simulated(np.random.default_rng(0), 12, across=False)).vanished == 0


def test_categories_are_resampled_with_the_product_of_their_weights() -> None:
    rng = np.random.default_rng(0)
    keys = np.array([(p, q, 0, 0) for p, q in itertools.permutations(range(12), 2)])
    errors = rng.random((1, len(keys)))
    table = table_of(errors, keys, np.ones(len(keys), dtype=np.int64), across=False)
    replicates = replicate(table, "categories", samples=50)
    drawn = np.random.default_rng(0).integers(12, size=(50, 12))
    for value, categories in zip(replicates.values[0], drawn, strict=True):
        weights = np.bincount(categories, minlength=12)
        products = weights[keys[:, 0]] * weights[keys[:, 1]]
        assert value == pytest.approx(np.average(errors[0], weights=products))
    few = table_of(
        errors[:, keys.max(1) < 3], keys[keys.max(1) < 3], np.ones(6, dtype=np.int64), across=False
    )
    interval = replicate(few, "categories").interval(0)
    means = [few.sums[0, few.keys[:, 0] == p].mean() for p in range(3)]
    assert (interval.method, interval.low, interval.high) == ("range", min(means), max(means))


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(4, 2.776), (5, 2.571), (8, 2.306), (9, 2.262), (30, 2.042)]
)
def test_quantiles_of_t_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-3)
