"""Distances between tokens: dynamic time warping over distances between frames, in batches.

Shapes: L layers, F and G frames, D dimensions, P pairs of tokens, B pairs of one batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Distance = Literal["angular", "euclidean", "kl_symmetric", "identical"]
Indices = NDArray[np.int64]
EPSILON = 1e-6  # of kl_symmetric
TILE = 1024  # frames of consecutive tokens, whose frame distances are one matrix product
MATRIX_CELLS = 24 * 2**20  # frame distances held at once
WARP_CELLS = 2**20  # of them warped at once: they stay in the cache


@dataclass(frozen=True)
class Frames:
    """Frames of all tokens, prepared for a distance.

    Attributes:
        values: (L, F, D).
        zero: Which frames are zero (L, F), where the angular distance has any.
    """

    values: Tensor
    zero: Tensor | None = None


def prepare(values: Tensor, distance: Distance) -> Frames:
    """Return frames (L, F, D) ready for between(): "angular" gives them unit length, in place."""
    if distance != "angular":
        return Frames(values)
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    zero = norms.squeeze(-1) == 0
    values /= norms.clamp_(min=torch.finfo(values.dtype).tiny)
    return Frames(values, zero if zero.any() else None)


def _angular(x: Tensor, y: Tensor) -> Tensor:
    """Return arccos of the cosine over pi, in [0, 1]."""
    return (x @ y.mT).clamp_(-1, 1).acos_().div_(torch.pi)


def _euclidean(x: Tensor, y: Tensor) -> Tensor:
    # by differences: equal frames have the distance 0, so that ties are ties
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _kl_symmetric(x: Tensor, y: Tensor) -> Tensor:
    """Mean of both Kullback-Leibler divergences of distributions p and q, each with EPSILON."""
    log_x, log_y = (x + EPSILON).log(), (y + EPSILON).log()
    own = (x * log_x).sum(-1)[..., :, None] + (y * log_y).sum(-1)[..., None, :]
    return (own - x @ log_y.mT - log_x @ y.mT).clamp_(min=0).div_(2)


def _identical(x: Tensor, y: Tensor) -> Tensor:
    """0 for the same discrete unit, 1 otherwise; D = 1."""
    return (x != y.mT).to(x.dtype)


_BETWEEN: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "angular": _angular,
    "euclidean": _euclidean,
    "kl_symmetric": _kl_symmetric,
    "identical": _identical,
}


def between(frames: Frames, rows: Tensor, columns: Tensor, distance: Distance) -> Tensor:
    """Return the distances (L, F, G) of frames number `rows` (F,) and `columns` (G,).

    A zero frame has no angle: its angular distance is 1 to other frames and 0 to a zero frame, as
    in Libri-Light and ABXpy.
    """
    x, y = (frames.values.index_select(1, each) for each in (rows, columns))
    found = _BETWEEN[distance](x, y)
    if frames.zero is not None:
        no_x, no_y = frames.zero[:, rows, None], frames.zero[:, None, columns]
        found.masked_fill_(no_x ^ no_y, 1.0).masked_fill_(no_x & no_y, 0.0)
    return found


def warp(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Run dynamic time warping over frame distances (..., n, m, B), which become path costs.

    Steps (1, 0), (0, 1) and (1, 1), each cell once (Sakoe and Chiba 1978). Where predecessors cost
    the same, the diagonal wins, then (0, 1), as in ABXpy and Libri-Light. Along anti-diagonals, all
    cells of which are independent; the length of the path is carried forward with its cost.

    Returns:
        Number of cells on the best path to each cell (..., n, m, B), and the same for the
        transposed matrix, whose ties go to (1, 0).
    """
    n, m = costs.shape[-3:-1]
    costs[..., 0, :, :].cumsum_(-2)
    costs[..., :, 0, :].cumsum_(-2)
    lengths = torch.empty_like(costs)
    lengths[..., 0, :, :] = torch.arange(1, m + 1, device=costs.device)[:, None]
    lengths[..., :, 0, :] = torch.arange(1, n + 1, device=costs.device)[:, None]
    transposed = lengths.clone()
    flat = (*costs.shape[:-3], n * m, costs.shape[-1])
    total, path, path_t = (each.view(flat) for each in (costs, lengths, transposed))
    for diagonal in range(2, n + m - 1) if min(n, m) > 1 else ():
        first, last = max(1, diagonal - m + 1), min(n - 1, diagonal - 1)
        start, stop = (diagonal + row * (m - 1) for row in (first, last))
        here, left, up, both = (
            slice(start - back, stop - back + 1, m - 1) for back in (0, 1, m, m + 1)
        )
        at_left, at_up, at_both = (total[..., each, :] for each in (left, up, both))
        best = torch.minimum(at_left, at_up)
        straight = _mask(torch.le, at_both, best)
        for steps, compare in ((path, torch.le), (path_t, torch.lt)):
            bent = steps[..., up, :].lerp(steps[..., left, :], _mask(compare, at_left, at_up))
            steps[..., here, :] = bent.lerp_(steps[..., both, :], straight).add_(1)
        total[..., here, :] += torch.minimum(best, at_both, out=best)
    return lengths, transposed


def _mask(compare: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return 1.0 or 0.0: lerp() with such weights is exact, and 20 times as fast as where()."""
    return compare(x, y, out=torch.empty_like(x))


@dataclass(frozen=True)
class Layout:
    """Where N tokens lie among the frames (F of Frames), for token_distances().

    Attributes:
        starts: First frame of each token (N,).
        lengths: Number of frames (N,).
        tiles: Number of the tile of each token (N,), ascending; see tiles_of().
    """

    starts: Indices
    lengths: Indices
    tiles: Indices


def tiles_of(lengths: Indices, blocks: Indices) -> Indices:
    """Return the tile (N,) of each token: consecutive tokens of one block, up to TILE frames.

    Args:
        lengths: Number of frames of each token (N,).
        blocks: Block of each token (N,), ascending: only tokens of one block are compared.
    """
    ends = lengths.cumsum()
    first_of_block = np.searchsorted(blocks, blocks)
    before_block = (ends - lengths)[first_of_block]
    key = blocks * (ends[-1] // TILE + 1) + (ends - before_block - 1) // TILE
    return np.unique(key, return_inverse=True)[1].astype(np.int64)


def token_distances(frames: Frames, layout: Layout, pairs: Indices, distance: Distance) -> Tensor:
    """Return the distance of both tokens of each pair, in both directions (2, L, P).

    The distance is the cost of the best path over its number of cells (Schatz 2016).
    Where paths cost exactly the same, the two directions may differ in that number.

    Args:
        frames: Prepared frames.
        layout: Tokens.
        pairs: Numbers of tokens (P, 2); the first is the row of the path's matrix in the first
            result and the column in the second.
        distance: Between frames.
    """
    values = frames.values
    found = values.new_empty(2, len(values), len(pairs))
    with full_precision(values.device.type):
        for numbers, matrix, places in _matrices(frames, layout, pairs, distance):
            lengths = layout.lengths[pairs[numbers]]
            for batch in _batches(lengths, WARP_CELLS // len(values)):
                chosen = torch.from_numpy(numbers[batch]).to(values.device)
                found[:, :, chosen] = _warp_batch(matrix, places[batch], lengths[batch])
    return found


def _matrices(
    frames: Frames, layout: Layout, pairs: Indices, distance: Distance
) -> Iterator[tuple[Indices, Tensor, Indices]]:
    """Yield frame distances of many tiles at once.

    Yields:
        Numbers of pairs (P',), flat matrices (L, C), and for each of the pairs the place of its
        first cell, the step to its next row and that to its next column (P', 3).
    """
    count = layout.tiles[-1] + 1
    tile_starts = np.searchsorted(layout.tiles, np.arange(count + 1))
    ends = np.concatenate([[0], layout.lengths.cumsum()])
    within_tile = ends[:-1] - ends[tile_starts[layout.tiles]]  # frame of a token in its tile
    sizes = np.diff(ends[tile_starts])

    key = layout.tiles[pairs[:, 0]] * count + layout.tiles[pairs[:, 1]]
    order = np.argsort(key, kind="stable")
    jobs, job_starts = np.unique(key[order], return_index=True)
    rows, columns = np.divmod(jobs, count)
    cells = sizes[rows] * sizes[columns]
    limit = max(MATRIX_CELLS // len(frames.values), 1)
    job_ends = np.append(job_starts[1:], len(pairs))
    first = 0
    while first < len(jobs):
        used = cells[first:].cumsum()
        last = first + max(int(np.searchsorted(used, limit, side="right")), 1)
        matrix = frames.values.new_empty(len(frames.values), int(used[last - first - 1]))
        bases = np.concatenate([[0], used[: last - first - 1]])
        for job, base in zip(range(first, last), bases, strict=True):
            x, y = (
                _frame_numbers(layout, tile_starts[tile], tile_starts[tile + 1], matrix.device)
                for tile in (rows[job], columns[job])
            )
            part = between(frames, x, y, distance)
            matrix[:, base : base + cells[job]] = part.flatten(1)
        numbers = order[job_starts[first] : job_ends[last - 1]]
        job_of = np.repeat(np.arange(last - first), (job_ends - job_starts)[first:last])
        step = sizes[columns[first:last]][job_of]
        corner = within_tile[pairs[numbers]]
        begin = bases[job_of] + corner[:, 0] * step + corner[:, 1]
        yield numbers, matrix, np.stack([begin, step, np.ones_like(step)], axis=1)
        first = last


def _frame_numbers(layout: Layout, first: int, last: int, device: torch.device) -> Tensor:
    """Return the frames of tokens first ... last - 1, one token after the other."""
    lengths = layout.lengths[first:last]
    skipped = layout.starts[first:last] - (lengths.cumsum() - lengths)
    return torch.from_numpy(np.repeat(skipped, lengths) + np.arange(lengths.sum())).to(device)


def _batches(lengths: Indices, most: int) -> Iterator[Indices]:
    """Yield numbers of pairs of about the same size, up to `most` cells at once.

    Args:
        lengths: Rows and columns of each pair (P, 2).
        most: Cells.
    """
    unit = np.maximum(lengths // 8, 1)
    key = np.sort(-(-lengths // unit) * unit, axis=1)  # rows and columns are swapped if need be
    key = key[:, 0] * (key.max() + 1) + key[:, 1]
    order = np.argsort(key, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        shape = np.sort(lengths[group], axis=1).max(axis=0)
        step = max(most // int(shape.prod()), 1)
        yield from (group[start : start + step] for start in range(0, len(group), step))


def _warp_batch(matrix: Tensor, places: Indices, lengths: Indices) -> Tensor:
    """Return distances in both directions (2, L, B) of pairs of about the same size.

    Args:
        matrix: Flat frame distances (L, C).
        places: First cell, step to the next row, step to the next column (B, 3).
        lengths: Rows and columns (B, 2).
    """
    swapped = lengths[:, 0] > lengths[:, 1]
    lengths = np.where(swapped[:, None], lengths[:, ::-1], lengths)
    steps = np.where(swapped[:, None], places[:, :0:-1], places[:, 1:])
    n, m = (int(size) for size in lengths.max(axis=0))
    device = matrix.device
    begin, ends, by = (
        torch.from_numpy(np.ascontiguousarray(each)).to(device)
        for each in (places[:, 0], lengths - 1, steps)
    )
    # beyond a token's end its last frame is repeated: those cells come after the result
    row = torch.arange(n, device=device)[:, None].minimum(ends[:, 0]) * by[:, 0] + begin
    column = torch.arange(m, device=device)[:, None].minimum(ends[:, 1]) * by[:, 1]
    cells = row[:, None] + column  # (n, m, B)
    costs = matrix.index_select(1, cells.flatten()).view(len(matrix), *cells.shape)
    path_lengths, transposed = warp(costs)
    last = (slice(None), ends[:, 0], ends[:, 1], torch.arange(len(begin), device=device))
    forward, backward = (costs[last] / each[last] for each in (path_lengths, transposed))
    turned = torch.from_numpy(swapped).to(device)
    return torch.stack(
        [torch.where(turned, backward, forward), torch.where(turned, forward, backward)]
    )


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Multiply float32 matrices as such, neither as TF32 nor under autocast.

    Near 0 an angle is the square root of the product's error.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
