"""Span masks over frames: fairseq's static masks, drawn from a generator that the caller seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench.config import AT_LEAST_1, NOT_NEGATIVE, Bounds


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Span masks over frames, as fairseq's static masks."""

    prob: float = 0.65  # masked share of frames, overlaps of spans counted twice
    length: int = 10  # length of a span, in frames
    min_masks: int = 1  # fewest spans per utterance
    equalize: bool = True  # give all rows of a batch equally many masked frames, as published
    clones: int = 1  # masks per utterance; front end and teacher run once for all of them

    BOUNDS: ClassVar[Bounds] = {
        ("a number above 0, at most 1", lambda prob: 0 < prob <= 1): "prob",
        AT_LEAST_1: "length clones",
        NOT_NEGATIVE: "min_masks",
    }


def draw_masks(
    lengths: Sequence[int], num_frames: int, config: MaskingConfig, generator: np.random.Generator
) -> Tensor:
    """Return a mask (B, T), True at masked frames, of `lengths` (B,) in frames.

    Spans overlap, so that about half of the frames are masked at the published settings.
    """
    mask = np.zeros((len(lengths), num_frames), dtype=bool)
    for row, length in zip(mask, lengths, strict=True):
        # rounded up or down at random, so that its mean is exact
        spans = int(config.prob * length / config.length + generator.random())
        spans = max(spans, config.min_masks)
        # fairseq's starts: the last span ends a frame before its row; short rows have just enough
        starts = length - config.length if length - config.length > spans else spans + 1
        drawn = generator.choice(starts, spans, replace=False)
        covered = (drawn[:, None] + np.arange(config.length)).ravel()
        row[covered[covered < length]] = True
    if config.equalize:
        # MT4SSL's require_same_masks: unmask single frames, not spans, down to the row with the
        # fewest. Spans get holes, and 0.42 to 0.45 of the frames stay masked: part of the method
        fewest = int(mask.sum(axis=1).min())
        for row in mask:
            masked = np.flatnonzero(row)
            row[generator.choice(masked, len(masked) - fewest, replace=False)] = False
    return torch.from_numpy(mask)


class MaskedFrames(NamedTuple):
    """Masks of a batch, R of each utterance, and the places of the M masked frames.

    Row r * B + b is mask r of utterance b. `queries` has the frames that the last layer computes:
    in each row the masked ones, in order, and unmasked ones after them in rows with fewer.
    """

    mask: Tensor  # (R * B, T), True at masked frames
    queries: Tensor  # (R * B, Q) frames
    place: Tensor  # (M,) of the masked frames among the R * B * Q queries
    row: Tensor  # (M,) utterance of each, below B
    time: Tensor  # (M,) frame of each

    @classmethod
    def of(cls, mask: Tensor, utterances: int) -> "MaskedFrames":
        """Find the places of masks on the host, so that no accelerator is waited for."""
        counts = mask.sum(1)
        queries = mask.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        first = torch.arange(queries.shape[1]) < counts[:, None]
        row, time = mask.nonzero(as_tuple=True)  # row by row, as `place`
        return cls(mask, queries, first.flatten().nonzero()[:, 0], row % utterances, time)
