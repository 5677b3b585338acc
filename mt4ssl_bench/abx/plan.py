"""Triplets of an ABX test, before any feature is read: all layers and models get the same ones.

A triplet (a, b, x): a and x are different tokens of one category, b is a token of another. A cell
holds the triplets of an ordered pair of categories, a context, and the groups (speakers) of a and x
(Schatz 2016; Kahn et al. 2020). Tokens of one context, group and category are a set, so a cell is
three sets: its tokens a, b and x.

Shapes: N tokens, S sets, C cells, K entries of a table, Q pairs of sets.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.abx.distance import Distance, Indices
from mt4ssl_bench.abx.items import Token
from mt4ssl_bench.errors import ConfigError, CorpusError

Mode = Literal["within", "across"]


@dataclass(frozen=True, kw_only=True)
class AbxConfig:
    """Settings of an ABX test.

    Attributes:
        modes: "within": all three tokens are of one group (speaker). "across": x is of another
            group than a and b.
        context: "same": the labels before and after all three tokens are the same. "any": they may
            differ; the number of triplets then needs a limit.
        distance: Between frames.
        pooled: Compare the means of the tokens' frames instead of warping.
        max_tokens: Largest number of tokens of a category, group and context; more are sampled,
            once for all triplets (Libri-Light's program samples anew for each cell). 0: no limit.
        max_groups: Largest number of groups of x for the tokens a of a category, group and
            context, "across"; more are sampled. 0: no limit.
        seed: Of the samples, which depend on the tokens only: all models get the same.
        pairs: Ordered pairs of categories to compare. None: all.
        precision: Of distances.
    """

    modes: tuple[Mode, ...] = ("within", "across")
    context: Literal["same", "any"] = "same"
    distance: Distance = "angular"
    pooled: bool = False
    max_tokens: int = 0
    max_groups: int = 0
    seed: int = 0
    pairs: frozenset[tuple[str, str]] | None = None
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if not self.modes or set(self.modes) - {"within", "across"}:
            raise ConfigError(f"modes: {self.modes}; expected 'within', 'across' or both")
        if self.max_tokens < 0 or self.max_tokens == 1 or self.max_groups < 0:
            raise ConfigError(
                f"max_tokens={self.max_tokens}, max_groups={self.max_groups}; expected 0 for no "
                "limit, or at least 2 tokens and 1 group"
            )


@dataclass(frozen=True)
class Sets:
    """Tokens by context, group and category, in this order.

    Attributes:
        starts: First token of each set in the plan's order (S,).
        sizes: Number of tokens (S,).
        blocks: Block (S,): the context, and the group where only "within" is asked for. Only tokens
            of one block are compared.
        contexts: Context (S,).
        groups: Group (S,).
        categories: Category (S,).
        names: Context, group and category of each set, for the sample.
    """

    starts: Indices
    sizes: Indices
    blocks: Indices
    contexts: Indices
    groups: Indices
    categories: Indices
    names: list[str]


@dataclass(frozen=True)
class Cells:
    """Cells of one mode, by block.

    Attributes:
        a: Set of the tokens a (C,).
        b: Set of the tokens b (C,).
        x: Set of the tokens x (C,): that of a, "within".
        triplets: Number of triplets (C,).
        entry: Entry of the table that the cell is averaged into (C,).
        keys: Category of a and x, category of b, group of a and b, group of x (K, 4), ascending.
        digest: 16 hex digits of the SHA-256 of the triplets: tokens and cells.
    """

    a: Indices
    b: Indices
    x: Indices
    triplets: Indices
    entry: Indices
    keys: Indices
    digest: str


@dataclass(frozen=True)
class Chunk:
    """Some blocks of a plan: a range of its pairs of sets, and one of its cells by mode."""

    set_pairs: slice
    cells: dict[Mode, slice]


@dataclass(frozen=True)
class Plan:
    """All comparisons of an ABX test.

    Attributes:
        config: Settings.
        order: Numbers of the compared tokens, by set.
        sets: Sets of these tokens.
        cells: Cells by mode.
        set_pairs: Sets whose tokens are compared, in both directions (Q, 2), ascending.
        offsets: Place of the first distance of each of them, and the end (Q + 1,).
        categories: Names, sorted.
        groups: Names, sorted.
    """

    config: AbxConfig
    order: Indices
    sets: Sets
    cells: dict[Mode, Cells]
    set_pairs: Indices
    offsets: Indices
    categories: tuple[str, ...]
    groups: tuple[str, ...]

    def pair_number(self, x: Indices, y: Indices) -> Indices:
        """Return the numbers among `set_pairs` of sets x and y."""
        count = len(self.sets.sizes)
        known = self.set_pairs[:, 0] * count + self.set_pairs[:, 1]
        return np.searchsorted(known, x * count + y)

    def chunks(self, most: int) -> Iterator[Chunk]:
        """Yield the plan by blocks, up to `most` distances at once, but at least one block."""
        block_of = self.sets.blocks
        of_pairs = block_of[self.set_pairs[:, 0]]
        blocks, starts = np.unique(of_pairs, return_index=True)
        ends = np.append(starts[1:], len(of_pairs))
        first = 0
        while first < len(blocks):
            limit = self.offsets[starts[first]] + most
            last = max(int(np.searchsorted(self.offsets[ends], limit, side="right")), first + 1)
            cells = {
                mode: slice(
                    *np.searchsorted(block_of[each.a], [blocks[first], blocks[last - 1] + 1])
                )
                for mode, each in self.cells.items()
            }
            yield Chunk(slice(int(starts[first]), int(ends[last - 1])), cells)
            first = last

    def largest_block(self) -> int:
        """Return the number of distances of the largest block."""
        of_pairs = self.sets.blocks[self.set_pairs[:, 0]]
        return int(np.bincount(of_pairs, weights=np.diff(self.offsets)).max())


def plan(tokens: Sequence[Token], config: AbxConfig) -> Plan:
    """Return the comparisons of an ABX test; the order of the tokens has no effect.

    Raises:
        CorpusError: If a mode has no triplet.
    """
    categories = sorted({token.category for token in tokens})
    groups = sorted({token.group for token in tokens})
    order, sets = _sets(tokens, config, categories, groups)
    cells = {}
    for mode in config.modes:
        a, b = _ordered_pairs(sets.contexts * len(groups) + sets.groups)
        if config.pairs is not None:
            wanted = np.zeros((len(categories), len(categories)), dtype=np.bool_)
            numbers = {name: number for number, name in enumerate(categories)}
            for p, q in config.pairs:
                if p in numbers and q in numbers:
                    wanted[numbers[p], numbers[q]] = True
            kept = wanted[sets.categories[a], sets.categories[b]]
            a, b = a[kept], b[kept]
        if mode == "within":
            a, b = (each[sets.sizes[a] >= 2] for each in (a, b))
            x = a
        else:
            a, b, x = _across(sets, a, b, config)
        if not len(a):
            raise _no_triplet(mode, len(tokens), len(categories), len(groups))
        cells[mode] = _cells(sets, a, b, x, [_identity(tokens[i]) for i in order])
    count = len(sets.sizes)
    sides = [(each.x, y) for each in cells.values() for y in (each.a, each.b)]
    codes = np.concatenate([np.r_[x * count + y, y * count + x] for x, y in sides])
    set_pairs = np.stack(np.divmod(np.unique(codes), count), axis=1)
    offsets = np.concatenate([[0], sets.sizes[set_pairs].prod(axis=1).cumsum()])
    return Plan(config, order, sets, cells, set_pairs, offsets, tuple(categories), tuple(groups))


def expand(counts: Indices) -> tuple[Indices, Indices]:
    """Return the owner and the place (n,) of each of counts[0] + counts[1] + ... = n members."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (counts.cumsum() - counts)[owner]


def _sets(
    tokens: Sequence[Token], config: AbxConfig, categories: list[str], groups: list[str]
) -> tuple[Indices, Sets]:
    same = config.context == "same"
    contexts = [(token.previous, token.next) if same else ("", "") for token in tokens]
    number = [
        {name: index for index, name in enumerate(names)}
        for names in (sorted(set(contexts)), groups, categories)
    ]
    keys = np.array(
        [
            (number[0][context], number[1][token.group], number[2][token.category])
            for token, context in zip(tokens, contexts, strict=True)
        ],
        dtype=np.int64,
    )
    order = np.array(sorted(range(len(tokens)), key=lambda i: (*keys[i].tolist(), tokens[i])))
    if config.max_tokens:
        rank = _ranks(config.seed, [_identity(tokens[i]) for i in order])
        order = order[_first_of_each(keys[order], rank, config.max_tokens)]
    keys, starts, sizes = np.unique(keys[order], axis=0, return_index=True, return_counts=True)
    blocks = keys[:, 0] if "across" in config.modes else keys[:, 0] * len(groups) + keys[:, 1]
    blocks = np.unique(blocks, return_inverse=True)[1]
    first = [(contexts[i], tokens[i].group, tokens[i].category) for i in order[starts]]
    context, group, category = keys.T
    names = [str(each) for each in first]
    return order, Sets(starts, sizes, blocks, context, group, category, names)


def _identity(token: Token) -> str:
    labels = f"{token.previous} {token.category} {token.next} {token.group}"
    return f"{token.utterance} {token.onset} {token.offset} {labels}"


def _ranks(seed: int, names: Sequence[str]) -> Indices:
    """Return a random number for each name, which does not depend on the other names."""
    hashes = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7) for name in names)
    return np.array([int.from_bytes(each.digest()) for each in hashes], dtype=np.int64)


def _first_of_each(keys: Indices, rank: Indices, most: int) -> NDArray[np.bool_]:
    """Return which rows (n,) are among the `most` lowest ranks of their key (n, ...)."""
    key = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((rank, key))
    place = np.empty(len(key), dtype=np.int64)
    place[order] = expand(np.bincount(key))[1]
    return place < most


def _ordered_pairs(keys: Indices) -> tuple[Indices, Indices]:
    """Return all ordered pairs of different positions with the same key; keys ascending."""
    first = np.searchsorted(keys, keys)
    left, place = expand(np.searchsorted(keys, keys, side="right") - first)
    right = first[left] + place
    return left[left != right], right[left != right]


def _across(
    sets: Sets, a: Indices, b: Indices, config: AbxConfig
) -> tuple[Indices, Indices, Indices]:
    """Return (a, b) with each set of x: of the same context and category as a, another group."""
    order = np.lexsort((sets.groups, sets.categories, sets.contexts))
    key = sets.contexts * (sets.categories.max() + 1) + sets.categories
    of, x = (order[each] for each in _ordered_pairs(key[order]))
    if config.max_groups:
        chosen = [f"{sets.names[i]} {sets.names[j]}" for i, j in zip(of, x, strict=True)]
        kept = _first_of_each(of[:, None], _ranks(config.seed, chosen), config.max_groups)
        of, x = of[kept], x[kept]
    by_set = np.argsort(of, kind="stable")
    of, x = of[by_set], x[by_set]
    first = np.searchsorted(of, a)
    cell, place = expand(np.searchsorted(of, a, side="right") - first)
    return a[cell], b[cell], x[first[cell] + place]


def _cells(sets: Sets, a: Indices, b: Indices, x: Indices, names: list[str]) -> Cells:
    triplets = (sets.sizes[x] - (x == a)) * sets.sizes[a] * sets.sizes[b]
    keys = sets.categories[a], sets.categories[b], sets.groups[a], sets.groups[x]
    categories, groups = int(sets.categories.max()) + 1, int(sets.groups.max()) + 1
    sizes = categories, categories, groups, groups
    codes, entry = np.unique(np.ravel_multi_index(keys, sizes), return_inverse=True)
    found = np.stack(np.unravel_index(codes, sizes), axis=1)
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(np.stack([sets.starts[each] for each in (a, b, x)]).tobytes())
    return Cells(a, b, x, triplets, entry, found, digest.hexdigest()[:16])


def _no_triplet(mode: Mode, tokens: int, categories: int, groups: int) -> CorpusError:
    found = f"{tokens} tokens of {categories} categories and {groups} speakers"
    if mode == "across":
        need = "expected tokens of two categories by one speaker and of one of them by another"
    else:
        need = "expected two tokens of one category and one of another by the same speaker"
    return CorpusError(f"ABX {mode} speakers: no triplet in {found}; {need}, in the same context")
