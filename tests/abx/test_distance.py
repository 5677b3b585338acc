"""Distances between tokens: the reference case, exact ties, and a plain Python program."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mt4ssl_bench.abx import distance
from mt4ssl_bench.abx.distance import Layout, between, prepare, tiles_of, token_distances, warp
from mt4ssl_bench.abx.items import read_items
from mt4ssl_bench.abx.spans import find_frames

CASE = Path(__file__).parent.parent / "fixtures" / "abx_case"
INTEGERS = st.integers(0, 3)


def plain_warp(costs: list[list[int]]) -> tuple[int, int]:
    """Total cost and path length, walking back from the end."""
    n, m = len(costs), len(costs[0])
    total: dict[tuple[int, int], int] = {}
    for i in range(n):
        for j in range(m):
            before = [total[p] for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if p in total]
            total[i, j] = costs[i][j] + min(before, default=0)
    i, j, length = n - 1, m - 1, 1
    while (i, j) != (0, 0):
        steps = [p for p in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if p in total]
        i, j = min(steps, key=lambda p: total[p])  # the first of equal ones
        length += 1
    return total[n - 1, m - 1], length


def test_ties_of_the_reference_case() -> None:
    for case in json.loads((CASE / "dtw_ties.json").read_text()):
        costs = torch.tensor(case["costs"], dtype=torch.float32)[..., None]
        lengths, transposed = warp(costs)
        assert costs[-1, -1, 0] == case["total"] == case["total_transposed"]
        assert lengths[-1, -1, 0] == case["path_cells"]
        assert transposed[-1, -1, 0] == case["path_cells_transposed"]


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_warping_is_that_of_a_plain_program(n: int, m: int, data: st.DataObject) -> None:
    row = st.lists(INTEGERS, min_size=m, max_size=m)
    matrices = [data.draw(st.lists(row, min_size=n, max_size=n)) for _ in range(3)]
    costs = torch.tensor(matrices, dtype=torch.float32).permute(1, 2, 0)
    lengths, transposed = warp(costs)
    for number, matrix in enumerate(matrices):
        total, length = plain_warp(matrix)
        assert [each[-1, -1, number].item() for each in (costs, lengths)] == [total, length]
        turned = [list(column) for column in zip(*matrix, strict=True)]
        assert (total, transposed[-1, -1, number].item()) == plain_warp(turned)


@pytest.mark.parametrize(("precision", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_distances_of_the_reference_case(precision: torch.dtype, error: float) -> None:
    tokens = read_items(CASE / "case.item")
    features = np.load(CASE / "features.npz")
    spans = find_frames(tokens, {name: len(features[name]) for name in features})
    sizes = [len(features[name]) for name in features]
    offsets = dict(zip(features, np.cumsum([0, *sizes]), strict=False))
    starts = np.array([offsets[t.utterance] for t in tokens]) + spans.starts
    values = torch.from_numpy(np.concatenate([features[name] for name in features]))
    frames = prepare(values[None].to(precision), "angular")
    with (CASE / "distances.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = np.array([[int(row["x_row"]), int(row["y_row"])] for row in rows])
    tiles = tiles_of(spans.lengths, np.zeros(len(tokens), dtype=np.int64))
    found = token_distances(frames, Layout(starts, spans.lengths, tiles), pairs, "angular")
    expected = torch.tensor([float(row["distance"]) for row in rows], dtype=precision)
    assert (found[:, 0] - expected).abs().max() < error  # no exact tie: both directions agree


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_tiles_and_batches_do_not_change_a_distance(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = np.array(lengths)
    starts = size.cumsum() - size
    units = torch.from_numpy(rng.integers(0, 3, (2, int(size.sum()), 1))).float()
    number = len(size)
    pairs = np.array([(i, j) for i in range(number) for j in range(i + 1, number)])
    with pytest.MonkeyPatch.context() as smaller:
        smaller.setattr(distance, "TILE", 25)
        smaller.setattr(distance, "MATRIX_CELLS", 300)
        smaller.setattr(distance, "WARP_CELLS", 500)
        layout = Layout(starts, size, tiles_of(size, np.zeros(number, dtype=np.int64)))
        found = token_distances(prepare(units, "identical"), layout, pairs, "identical")
    for (i, j), both in zip(pairs, found.permute(2, 0, 1), strict=True):
        for layer in range(2):
            x, y = (units[layer, starts[t] : starts[t] + size[t], 0].tolist() for t in (i, j))
            matrix = [[int(a != b) for b in y] for a in x]
            turned = [list(column) for column in zip(*matrix, strict=True)]
            for direction, costs in enumerate((matrix, turned)):
                total, length = plain_warp(costs)
                assert both[direction, layer].item() == np.float32(total / length)


def angle(x: np.ndarray, y: np.ndarray) -> float:
    cosine = float(x @ y) / (np.linalg.norm(x) * np.linalg.norm(y))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    ratio = np.log((p + 1e-6) / (q + 1e-6))
    return float((p * ratio - q * ratio).sum()) / 2


def euclid(x: np.ndarray, y: np.ndarray) -> float:
    return math.dist(x, y)


@pytest.mark.parametrize(
    ("name", "formula"),
    [("angular", angle), ("kl_symmetric", divergence), ("euclidean", euclid)],
)
def test_frame_distances_are_their_formulas(
    name: distance.Distance, formula: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(6), size=8)
    frames = prepare(torch.from_numpy(values)[None].clone(), name)
    rows, columns = torch.arange(3), torch.arange(3, 8)
    found = between(frames, rows, columns, name)
    expected = [[formula(values[i], values[j]) for j in range(3, 8)] for i in range(3)]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-12)


def test_equal_frames_have_the_euclidean_distance_zero() -> None:
    values = torch.randn(1, 1, 768).repeat(1, 300, 1)
    everything = torch.arange(300)
    assert not between(prepare(values, "euclidean"), everything, everything, "euclidean").any()


def test_a_zero_frame_is_far_from_others_and_equal_to_itself() -> None:
    values = torch.tensor([[[1.0, 0], [0, 0], [-1, 0], [0, 0]]])
    everything = torch.arange(4)
    found = between(prepare(values, "angular"), everything, everything, "angular")
    expected = [[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0]]
    assert found[0].tolist() == expected


def test_reduced_precision_of_the_caller_does_not_matter() -> None:
    values = torch.randn(1, 60, 16, generator=torch.Generator().manual_seed(0))
    frames = prepare(values, "angular")
    lengths = np.full(12, 5)
    layout = Layout(np.arange(0, 60, 5), lengths, tiles_of(lengths, np.zeros(12, dtype=np.int64)))
    pairs = np.array([(i, j) for i in range(12) for j in range(i + 1, 12)])
    expected = token_distances(frames, layout, pairs, "angular")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert token_distances(frames, layout, pairs, "angular").equal(expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
