"""Search of spoken queries in documents by sub-sequence DTW, for all layers at once.

The method is that of s3prl's quesst14_dtw, which needs dtw-python and a process for each pair. Its
step pattern has no dependence along the document, so one vector operation per query frame serves
all layers and a batch of documents.

Shapes: L layers, D dimensions, Q queries, M documents, B documents of a batch, N frames of a query,
T frames of a document.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mt4ssl_bench.abx.distance import full_precision
from mt4ssl_bench.errors import UpstreamError
from mt4ssl_bench.results.intervals import Floats

Distance = Literal["cosine_exp", "cosine", "cityblock", "euclidean"]
Named = tuple[str, Tensor]  # utterance id, hidden states (L, N or T, D)
SMALLEST = 1e-9  # standard deviation, as in s3prl
# distances of one query frame that differ by less are equal but for rounding; s3prl, in double
# precision, takes 1e-9
ROUNDING = 1e-5
SHORTEST = 5  # frames of a query that is searched
CELLS = 2**17  # of a row of distances: L * B * T; they stay in the cache


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every dimension (L, 1, D)."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Return hidden states (L, T, D) with mean 0 and standard deviation 1."""
        return (values - self.mean) / self.deviation


def scale_of(utterances: Iterable[Named]) -> Scale:
    """Return the scale over all frames of all utterances; it needs one of them in memory.

    Raises:
        UpstreamError: If a value is not finite; the message names the utterance.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for name, values in utterances:
        frames, exact = values.shape[1], values.double()
        own = exact.mean(1, keepdim=True)
        away = (exact - own).square().sum(1, keepdim=True)
        if not bool(away.isfinite().all()):
            raise UpstreamError(f"features of '{name}': NaN or infinite; expected finite values")
        # Chan, Golub and LeVeque 1979: no difference of large numbers, so constants stay exact
        shift, total = own - mean, count + frames
        mean = mean + shift * (frames / total)
        squares = squares + away + shift.square() * (count * frames / total)
        count = total
    deviation = (squares / max(count - 1, 1)).sqrt().clamp(min=SMALLEST)
    return Scale(mean.float(), deviation.float())


def prepare(values: Tensor, distance: Distance) -> Tensor:
    """Return hidden states (..., D) ready for match_costs(): of unit length for a cosine."""
    return normalize(values, dim=-1) if distance in {"cosine", "cosine_exp"} else values


def _cosine(query: Tensor, documents: Tensor) -> Tensor:
    """1 - cosine; a frame of zeros has the distance 1 to all others."""
    return 1 - query @ documents.mT


def _cosine_exp(query: Tensor, documents: Tensor) -> Tensor:
    return _cosine(query, documents).expm1_()


def _cityblock(query: Tensor, documents: Tensor) -> Tensor:
    return torch.cdist(query, documents, p=1)


def _euclidean(query: Tensor, documents: Tensor) -> Tensor:
    return torch.cdist(query, documents, compute_mode="donot_use_mm_for_euclid_dist")


_BETWEEN: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine_exp": _cosine_exp,
    "cosine": _cosine,
    "cityblock": _cityblock,
    "euclidean": _euclidean,
}


def subsequence_costs(distances: Tensor) -> Tensor:
    """Return the cost of the best path that ends at each document frame.

    Step pattern "asymmetric" (Sakoe and Chiba 1978) with open begin and end: a query frame is used
    once, and the document advances by 0, 1 or 2 frames.

    Args:
        distances: Of query frames to document frames (L, N, B, T).

    Returns:
        Costs (L, B, T), sums of N distances.
    """
    first, *others = distances.unbind(1)
    costs = first
    for row in others:
        best = costs.clone()
        for step in (1, 2):
            later = best[..., step:]
            torch.minimum(later, costs[..., : later.shape[-1]], out=later)
        costs = best.add_(row)
    return costs


def match_costs(query: Tensor, documents: Tensor, lengths: Tensor, distance: Distance) -> Tensor:
    """Return the cost per query frame of the best match in each document (L, B).

    Args:
        query: Hidden states (L, N, D), prepared.
        documents: Hidden states (L, B, T, D), prepared; the last frame of shorter ones is repeated.
        lengths: Frames of each document (B,).
        distance: Between frames.
    """
    sizes = (*query.shape[:2], *documents.shape[1:3])
    found = _BETWEEN[distance](query, documents.flatten(1, 2)).view(sizes)  # (L, N, B, T)
    low, high = found.amin(-1, keepdim=True), found.amax(-1, keepdim=True)
    spread = high - low
    spread.masked_fill_(spread < ROUNDING * high.clamp(min=1), torch.inf)  # alike: all 0
    found = found.sub_(low).div_(spread)
    beyond = torch.arange(sizes[-1], device=lengths.device) >= lengths[:, None]
    costs = subsequence_costs(found).masked_fill(beyond, torch.inf)
    return costs.amin(-1) / query.shape[1]


def search(
    queries: Sequence[Tensor],
    documents: Iterable[Named],
    distance: Distance = "cosine_exp",
    cells: int = CELLS,
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the ids of a batch of documents, and their scores (L, Q, B): the higher, the better.

    A query with fewer than SHORTEST frames scores 0 everywhere.

    Args:
        queries: Hidden states (L, N, D) of each, all in memory.
        documents: In any order; neighbors of similar length waste the least padding.
        distance: Between frames.
        cells: Frames times layers of a batch.
    """
    prepared = [prepare(query, distance) for query in queries]
    for batch in _batches(documents, cells):
        names, values = zip(*batch, strict=True)
        device = values[0].device
        lengths = torch.tensor([each.shape[1] for each in values], device=device)
        places = torch.arange(int(lengths.max()), device=device)
        padded = torch.stack(
            [prepare(each, distance)[:, places.clamp(max=each.shape[1] - 1)] for each in values],
            dim=1,
        )
        with full_precision(device.type):
            scores = [
                -match_costs(query, padded, lengths, distance)
                if query.shape[1] >= SHORTEST
                else padded.new_zeros(len(query), len(batch))
                for query in prepared
            ]
        yield list(names), torch.stack(scores, dim=1).cpu()


def _batches(documents: Iterable[Named], cells: int) -> Iterator[list[Named]]:
    batch: list[Named] = []
    longest = 0
    for name, values in documents:
        longest = max(longest, values.shape[1])
        if batch and len(values) * longest * (len(batch) + 1) > cells:
            yield batch
            batch, longest = [], values.shape[1]
        batch.append((name, values))
    if batch:
        yield batch


def z_norm(scores: Floats) -> Floats:
    """Return scores (..., M) with mean 0 and standard deviation 1 over documents, or all 0."""
    away = scores - scores.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(away).mean(-1, keepdims=True))
    normed: Floats = away / np.maximum(deviation, SMALLEST)
    return normed
