"""ABX error rates of all layers: from features and triplets to tables by pair and speaker.

Shapes: L layers, T frames, D dimensions, K entries of a table, S groups, R sets of weights.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.abx.distance import (
    Frames,
    Indices,
    Layout,
    prepare,
    tiles_of,
    token_distances,
)
from mt4ssl_bench.abx.plan import AbxConfig, Cells, Chunk, Mode, Plan, expand, plan
from mt4ssl_bench.abx.spans import Spans
from mt4ssl_bench.abx.table import Counts, Table
from mt4ssl_bench.errors import ConfigError, UpstreamError

LOGGER = logging.getLogger(__name__)
Features = Callable[[str], Tensor]  # utterance id -> hidden states (L, T, D)
Numbers = NDArray[np.float64]
FRAME_BYTES = 400 * 2**20  # of the frames of the layers that are scored at once
DISTANCES = 24 * 2**20  # held at once
PAIRS = 2**20  # of tokens, whose distances are computed at once
TRIPLETS = 2**21  # compared at once
MOST = 2**27  # distances of tokens of one context, which are held at once


def score_layers(
    spans: Spans,
    features: Features,
    config: AbxConfig | None = None,
    *,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
) -> dict[Mode, Table]:
    """Return the errors of all layers by mode.

    Each distance is computed once and serves all triplets of both modes. Layers are scored in
    groups to limit the memory; `features` is called once per group and utterance.

    Args:
        spans: Tokens with their frames.
        features: Returns the hidden states (L, T, D) of an utterance, for example the method
            `__getitem__` of a dictionary.
        config: Settings.
        layers: Numbers of hidden states. Default: all.
        device: Torch device.

    Raises:
        ConfigError: If a layer does not exist, or one context has too many tokens.
        CorpusError: If a mode has no triplet.
        UpstreamError: If features are not finite, or too short for their tokens.
    """
    comparisons = plan(spans.tokens, config or AbxConfig())
    if layers is None:
        layers = range(len(features(spans.tokens[0].utterance)))
    errors = {
        mode: np.zeros((len(layers), len(cells.keys))) for mode, cells in comparisons.cells.items()
    }
    for found in cell_errors(comparisons, spans, features, layers, device):
        sums, entry = errors[found.mode], comparisons.cells[found.mode].entry[found.cells]
        for layer, values in enumerate(found.errors, start=found.layers.start):
            sums[layer] += np.bincount(entry, values, minlength=sums.shape[1])
    return {
        mode: Table(
            comparisons.categories,
            comparisons.groups,
            cells.keys,
            np.bincount(cells.entry),
            errors[mode],
            _counts(comparisons, cells),
            across=mode == "across",
            digest=cells.digest,
        )
        for mode, cells in comparisons.cells.items()
    }


@dataclass(frozen=True)
class CellErrors:
    """Errors of some cells of a plan.

    Attributes:
        mode: Mode of the cells.
        cells: Which cells of the mode.
        layers: Places of the layers among those asked for.
        errors: Share of the triplets of each cell with d(x, a) > d(x, b); equal distances count
            half (layers, cells).
    """

    mode: Mode
    cells: slice
    layers: slice
    errors: Numbers


def cell_errors(
    comparisons: Plan,
    spans: Spans,
    features: Features,
    layers: Sequence[int],
    device: str = "cpu",
) -> Iterator[CellErrors]:
    """Yield the errors of all cells; see score_layers()."""
    if comparisons.largest_block() > MOST:
        raise ConfigError(
            f"ABX: {comparisons.largest_block():.3g} distances in one context; expected at most "
            f"{MOST:.3g}; set a limit, for example max_tokens=10 max_groups=5"
        )
    reader = _Reader(comparisons, spans, features)
    if wrong := [layer for layer in layers if not 0 <= layer < reader.shape[0]]:
        raise ConfigError(f"layer {wrong[0]}: does not exist; expected 0-{reader.shape[0] - 1}")
    together = min(reader.layers_at_once(), DISTANCES // comparisons.largest_block())
    for start in range(0, len(layers), max(together, 1)):
        some = list(layers[start : start + max(together, 1)])
        frames, layout = reader.read(some, device)
        for chunk in comparisons.chunks(DISTANCES // len(some)):
            distances = _distances(comparisons, chunk, frames, layout)
            for mode, cells in chunk.cells.items():
                for part, errors in _compare(comparisons, mode, cells, distances, chunk):
                    yield CellErrors(mode, part, slice(start, start + len(some)), errors)


class _Reader:
    """Reads frames of the plan's tokens, some layers at once."""

    def __init__(self, comparisons: Plan, spans: Spans, features: Features) -> None:
        self.config, self.features = comparisons.config, features
        names = [spans.tokens[i].utterance for i in comparisons.order]
        self.names, owner = np.unique(names, return_inverse=True)
        starts, self.lengths = (each[comparisons.order] for each in (spans.starts, spans.lengths))
        self.first = np.full(len(self.names), np.iinfo(np.int64).max)
        np.minimum.at(self.first, owner, starts)
        self.last = np.zeros_like(self.first)
        np.maximum.at(self.last, owner, starts + self.lengths)
        sizes = self.last - self.first
        self.offsets = sizes.cumsum() - sizes
        self.total = int(sizes.sum())
        self.starts = starts - self.first[owner] + self.offsets[owner]
        blocks = np.repeat(comparisons.sets.blocks, comparisons.sets.sizes)
        self.tiles = tiles_of(np.ones_like(starts) if self.config.pooled else self.lengths, blocks)
        self.dtype = torch.float64 if self.config.precision == "float64" else torch.float32
        self.shape = features(str(self.names[0])).shape
        if len(self.shape) != 3 or (self.config.distance == "identical" and self.shape[2] != 1):
            raise UpstreamError(
                f"features of '{self.names[0]}': shape {tuple(self.shape)}; expected "
                f"(layers, frames, {1 if self.config.distance == 'identical' else 'dimensions'})"
            )

    def layers_at_once(self) -> int:
        """Return how many layers the memory holds, at least one."""
        return max(FRAME_BYTES // (self.total * self.shape[-1] * self.dtype.itemsize), 1)

    def read(self, layers: list[int], device: str) -> tuple[Frames, Layout]:
        """Return the prepared frames of some layers, and where the plan's tokens are in them."""
        values = torch.empty(
            len(layers), self.total, self.shape[-1], dtype=self.dtype, device=device
        )
        for number, name in enumerate(self.names):
            hidden = self._hidden(str(name), layers, int(self.last[number]))
            used = hidden[:, self.first[number] : self.last[number]]
            begin = int(self.offsets[number])
            values[:, begin : begin + used.shape[1]] = used
        starts, lengths = self.starts, self.lengths
        if self.config.pooled:
            spans = zip(starts, lengths, strict=True)
            values = torch.stack([values[:, s : s + n].mean(1) for s, n in spans], dim=1)
            starts, lengths = np.arange(len(starts)), np.ones_like(lengths)
        frames = prepare(values, self.config.distance)
        if frames.zero is not None:
            LOGGER.warning(
                "%d zero frames in layers %s: their angular distance to other frames is set to 1",
                int(frames.zero.sum()),
                ", ".join(str(layers[i]) for i in frames.zero.any(dim=1).nonzero()[:, 0].tolist()),
            )
        return frames, Layout(starts, lengths, self.tiles)

    def _hidden(self, name: str, layers: list[int], needed: int) -> Tensor:
        hidden = self.features(name).detach()
        num_layers, _, dim = self.shape
        if hidden.shape[::2] != (num_layers, dim) or hidden.shape[1] < needed:
            raise UpstreamError(
                f"features of '{name}': shape {tuple(hidden.shape)}; expected ({num_layers}, T, "
                f"{dim}) with at least {needed} frames, as its tokens need"
            )
        hidden = hidden[layers]
        finite = hidden.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            raise UpstreamError(
                f"features of '{name}': NaN or infinity in layer "
                f"{layers[int(finite.int().argmin())]}; expected finite values; run mt4ssl-bench "
                "check-upstream"
            )
        if self.config.distance == "kl_symmetric" and (hidden < 0).any():
            raise UpstreamError(
                f"features of '{name}': negative values; the distance kl_symmetric needs the "
                "probabilities of a distribution"
            )
        return hidden


def _distances(comparisons: Plan, chunk: Chunk, frames: Frames, layout: Layout) -> Tensor:
    """Return the distances of a chunk's pairs of sets, one after the other (L, n).

    Those of a token to itself are infinite: such a "triplet" is never correct.
    """
    offsets = comparisons.offsets
    size = int(offsets[chunk.set_pairs.stop] - offsets[chunk.set_pairs.start])
    values = frames.values
    found = values.new_full((len(values), size), torch.inf)
    for pairs, *places in _token_pairs(comparisons, chunk):
        both = token_distances(frames, layout, pairs, comparisons.config.distance)
        for place, distances in zip(places, both, strict=True):
            found[:, torch.from_numpy(place).to(found.device)] = distances
    return found


def _token_pairs(comparisons: Plan, chunk: Chunk) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield pairs of tokens (P, 2), and the places of their distances in both directions (P,)."""
    sets, begin = comparisons.sets, comparisons.offsets[chunk.set_pairs.start]
    pairs = comparisons.set_pairs[chunk.set_pairs]
    pairs = pairs[pairs[:, 0] <= pairs[:, 1]]  # the others are their transposes
    numbers = sets.sizes[pairs].prod(axis=1).cumsum() // PAIRS
    for part in np.split(pairs, np.flatnonzero(np.diff(numbers)) + 1):
        x, y = part.T
        forward, backward = (
            comparisons.offsets[comparisons.pair_number(*each)] - begin for each in ((x, y), (y, x))
        )
        owner, place = expand(sets.sizes[x] * sets.sizes[y])
        row, column = np.divmod(place, sets.sizes[y][owner])
        tokens = np.stack([sets.starts[x][owner] + row, sets.starts[y][owner] + column], axis=1)
        there = forward[owner] + place
        back = backward[owner] + column * sets.sizes[x][owner] + row
        once = tokens[:, 0] < tokens[:, 1]
        yield tokens[once], there[once], back[once]


def _compare(
    comparisons: Plan, mode: Mode, which: slice, distances: Tensor, chunk: Chunk
) -> Iterator[tuple[slice, Numbers]]:
    """Yield ranges of a chunk's cells with their errors (L, cells)."""
    cells, sizes = comparisons.cells[mode], comparisons.sets.sizes
    a, b, x = (each[which] for each in (cells.a, cells.b, cells.x))
    begin = comparisons.offsets[chunk.set_pairs.start]
    to_a, to_b = (comparisons.offsets[comparisons.pair_number(x, each)] - begin for each in (a, b))
    n_a, n_b = sizes[a], sizes[b]
    compared = sizes[x] * n_a * n_b
    ends = compared.cumsum()
    first = 0
    while first < len(a):
        limit = (ends[first - 1] if first else 0) + TRIPLETS // len(distances)
        last = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
        part = slice(first, last)
        owner, place = expand(compared[part])
        rest, of_b = np.divmod(place, n_b[part][owner])
        of_x, of_a = np.divmod(rest, n_a[part][owner])
        place_a = to_a[part][owner] + of_x * n_a[part][owner] + of_a
        place_b = to_b[part][owner] + of_x * n_b[part][owner] + of_b
        d_a, d_b = (
            distances.index_select(1, torch.from_numpy(places).to(distances.device))
            for places in (place_a, place_b)
        )
        # twice the number of correct triplets: whole numbers, so that sums are exact
        points = (d_a < d_b).int() + (d_a <= d_b).int()
        sums = points.cumsum(1)[:, ends[part] - ends[first] + compared[first] - 1].cpu().numpy()
        sums = np.diff(sums, axis=1, prepend=0)
        yield (
            slice(which.start + first, which.start + last),
            1 - sums / (2.0 * cells.triplets[which][part]),
        )
        first = last


def _counts(comparisons: Plan, cells: Cells) -> Counts:
    used = np.unique(np.concatenate([cells.a, cells.b, cells.x]))
    return Counts(
        tokens=int(comparisons.sets.sizes[used].sum()),
        cells=len(cells.a),
        pairs=len(np.unique(cells.keys[:, :2], axis=0)),
        categories=len(np.unique(cells.keys[:, :2])),
        groups=len(np.unique(cells.keys[:, 2:])),
        triplets=int(cells.triplets.sum()),
    )
