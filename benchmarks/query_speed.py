"""Query by example of a Base-size encoder: batches of documents against DTW pair by pair.

    python benchmarks/query_speed.py --queries 20 --documents 100

Features are random. A pair takes librosa's compiled DTW on s3prl's distance matrix; a share of the
pairs is timed and the rest is extrapolated. Times are of the processor, all threads together. The
largest difference of a score shows that both compute the same.
"""

import argparse
import time

import librosa
import numpy as np
import torch
from scipy.spatial.distance import cdist

from mt4ssl_bench.downstream.layers.search import search

STEPS = np.array([[1, 0], [1, 1], [1, 2]])  # the pattern "asymmetric"


def pair(query: np.ndarray, document: np.ndarray) -> float:
    """Return the score of one query (N, D) in one document (T, D)."""
    found = np.expm1(cdist(query, document, "cosine"))
    low, high = found.min(1)[:, None], found.max(1)[:, None]
    costs = librosa.sequence.dtw(
        C=(found - low) / np.maximum(high - low, 1e-9),
        subseq=True,
        backtrack=False,
        step_sizes_sigma=STEPS,
        weights_add=np.zeros(3),
        weights_mul=np.ones(3),
    )
    return float(-costs[-1].min() / len(query))


def main() -> None:
    """Print both times for all pairs and layers, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--pairs", type=int, default=100, help="pairs timed one by one")
    options = parser.parse_args()
    rng, layers = np.random.default_rng(0), options.layers

    def drawn(count: int, low: int, high: int) -> list[torch.Tensor]:
        frames = np.sort(rng.integers(low, high, count))
        shapes = [(layers, int(each), options.dimensions) for each in frames]
        return [torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]

    queries, documents = drawn(options.queries, 40, 120), drawn(options.documents, 100, 600)
    named = [(str(place), each) for place, each in enumerate(documents)]
    list(search(queries[:1], named[:1]))  # warm up
    began = time.process_time()
    scores = torch.cat([part for _, part in search(queries, named)], dim=2)
    batched = time.process_time() - began

    total = scores.numel()
    chosen = rng.choice(total, min(options.pairs, total), replace=False)
    places = np.stack(np.unravel_index(chosen, tuple(scores.shape)), axis=1).tolist()
    pair(queries[0][0].numpy(), documents[0][0].numpy())  # compiles
    began = time.process_time()
    singles = [
        pair(queries[q][layer].numpy(), documents[d][layer].numpy()) for layer, q, d in places
    ]
    single = (time.process_time() - began) * total / len(places)
    apart = max(
        abs(float(scores[tuple(at)]) - one) for at, one in zip(places, singles, strict=True)
    )
    print(
        f"{options.queries} queries, {options.documents} documents, {layers} layers: "
        f"{total:,} pairs, {torch.get_num_threads()} threads"
    )
    print(f"batched {batched:.1f} s; pair by pair {single:.1f} s, from {len(places)} pairs")
    print(f"ratio {single / batched:.1f}; largest difference of a score {apart:.1e}")


if __name__ == "__main__":
    main()
