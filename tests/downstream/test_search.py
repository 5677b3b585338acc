"""Sub-sequence DTW of queries: equal to plain loops and to librosa, whatever the batch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from mt4ssl_bench.downstream.layers.search import (
    Distance,
    Named,
    match_costs,
    scale_of,
    search,
    subsequence_costs,
    z_norm,
)
from mt4ssl_bench.errors import UpstreamError

Matrix = NDArray[np.float64]
LAYERS, DIM = 2, 6


def loop(distances: Matrix) -> float:
    """Return the cost of the best path, cell by cell."""
    n, t = distances.shape
    costs = np.full((n, t), np.inf)
    costs[0] = distances[0]
    for i in range(1, n):
        for j in range(t):
            before = [costs[i - 1, j - step] for step in (0, 1, 2) if j >= step]
            costs[i, j] = distances[i, j] + min(before)
    return float(costs[-1].min()) / n


def by_hand(query: Matrix, document: Matrix, distance: str) -> float:
    """Return the score of a pair as s3prl's quesst14_dtw computes it, with a loop for dtw()."""
    found = cdist(query, document, distance.removesuffix("_exp"))
    if distance == "cosine_exp":
        found = np.exp(found) - 1
    low, high = found.min(1)[:, None], found.max(1)[:, None]
    return -loop((found - low) / np.clip(high - low, 1e-9, np.inf))


def drawn(*frames: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(LAYERS, count, DIM, generator=generator) for count in frames]


def named(values: list[Tensor]) -> Iterator[Named]:
    return ((f"d{number}", each) for number, each in enumerate(values))


def scores_of(queries: list[Tensor], documents: list[Tensor], cells: int = 2**17) -> Tensor:
    return torch.cat([part for _, part in search(queries, named(documents), cells=cells)], dim=2)


@pytest.mark.parametrize("seed", range(20))
def test_the_recursion_equals_a_double_loop_and_librosa(seed: int) -> None:
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(seed)
    n, t = rng.integers(1, 12, 2)
    distances = rng.random((3, n, 2, t))
    best = subsequence_costs(torch.from_numpy(distances)).amin(-1)
    for layer, document in np.ndindex(3, 2):
        one = distances[layer, :, document]
        assert float(best[layer, document]) / n == pytest.approx(loop(one), abs=1e-9)
        steps = np.array([[1, 0], [1, 1], [1, 2]])
        costs = librosa.sequence.dtw(
            C=one, step_sizes_sigma=steps, subseq=True, backtrack=False,
            weights_add=np.zeros(3), weights_mul=np.ones(3),
        )  # fmt: skip
        assert costs[-1].min() / n == pytest.approx(loop(one), abs=1e-9)


@pytest.mark.parametrize("distance", ["cosine_exp", "cosine", "cityblock", "euclidean"])
def test_scores_equal_s3prls_computation_pair_by_pair(distance: Distance) -> None:
    queries, documents = drawn(5, 30, 9), drawn(40, 3, 1, 17, 40, 2, seed=1)
    parts = list(search(queries, named(documents), distance, cells=100))
    assert [name for names, _ in parts for name in names] == [f"d{n}" for n in range(6)]
    scores = torch.cat([part for _, part in parts], dim=2)
    assert scores.shape == (LAYERS, 3, 6)
    for layer, q, d in np.ndindex(*scores.shape):
        sides = (queries[q][layer].double().numpy(), documents[d][layer].double().numpy())
        assert float(scores[layer, q, d]) == pytest.approx(by_hand(*sides, distance), abs=1e-6)


def test_a_batch_never_changes_a_score() -> None:
    queries, documents = drawn(6, 50), drawn(*range(1, 60, 3), seed=1)
    single = scores_of(queries, documents, cells=1)
    for cells in (50, 500, 2**17):
        torch.testing.assert_close(scores_of(queries, documents, cells), single, atol=1e-6, rtol=0)


def test_a_query_with_fewer_than_five_frames_scores_0() -> None:
    scores = scores_of(drawn(4, 1, 5), drawn(9, 30, seed=1))
    assert not scores[:, :2].any()
    assert scores[:, 2].all()


def test_constant_features_score_all_documents_alike() -> None:
    queries = [torch.full((LAYERS, 8, DIM), 3.0), *drawn(8)]
    documents = [torch.full((LAYERS, 9, DIM), 3.0), torch.full((LAYERS, 4, DIM), 3.0)]
    scale = scale_of(named(documents))
    assert not scale(documents[0]).any()
    scores = scores_of([scale(each) for each in queries], [scale(each) for each in documents])
    assert scores.isfinite().all()
    assert not z_norm(scores.double().numpy()).any()


def test_the_scale_is_that_of_all_frames_and_names_what_is_not_finite() -> None:
    values = [1e3 + each for each in drawn(7, 1, 30)]
    joint = torch.cat(values, dim=1)
    scale = scale_of(named(values))
    torch.testing.assert_close(scale.mean, joint.mean(1, keepdim=True))
    torch.testing.assert_close(scale.deviation, joint.std(1, keepdim=True), rtol=1e-4, atol=0)
    values[1][0, 0, 0] = torch.nan
    with pytest.raises(UpstreamError, match="features of 'd1': NaN or infinite"):
        scale_of(named(values))


def test_z_norm_is_over_documents_by_the_population() -> None:
    scores = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    normed = z_norm(scores)
    np.testing.assert_allclose(normed[0], (scores[0] - 3) / scores[0].std())
    np.testing.assert_array_equal(normed[1], 0)


def test_a_document_of_equal_frames_costs_nothing_however_it_is_rounded() -> None:
    queries = drawn(9, 30)
    documents = [each.expand(-1, 50, -1) for each in drawn(1, 1, 1, seed=2)] + drawn(80, seed=3)
    for distance in ("cosine_exp", "cosine", "cityblock", "euclidean"):
        parts = [part for _, part in search(queries, named(documents), distance)]
        assert not torch.cat(parts, dim=2)[:, :, :3].any(), distance


def test_frames_of_zeros_have_no_direction() -> None:
    query, documents = torch.zeros(1, 5, DIM), torch.randn(1, 1, 9, DIM)
    costs = match_costs(query, documents, torch.tensor([9]), "cosine_exp")
    assert costs.tolist() == [[0.0]]
