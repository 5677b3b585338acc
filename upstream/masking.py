"""Span masks over frames: fairseq's static masks, drawn from a generator that belongs to one
update.
"""

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench.upstream.config import MaskingConfig


def draw_masks(
    lengths: list[int], frames: int, config: MaskingConfig, generator: np.random.Generator
) -> Tensor:
    """Return a mask (B, T), True where a frame is masked; never at or beyond a row's length.

    Each row draws about prob * length / span distinct span starts; spans overlap, so about half of
    the frames end up masked at the published settings. With `equalize`, rows are trimmed to the row
    with the fewest masked frames by unmasking single frames, which lowers that to 0.42-0.45
    (MT4SSL's `require_same_masks`).
    """
    mask = np.zeros((len(lengths), frames), dtype=bool)
    for row, length in zip(mask, lengths, strict=True):
        spans = max(
            config.min_masks, int(config.prob * length / config.length + generator.random())
        )
        # fairseq's range: the last start leaves one frame after the span; short rows open just
        # enough room
        room = length - config.length if length - config.length > spans else spans + 1
        starts = generator.choice(room, spans, replace=False)
        covered = (starts[:, None] + np.arange(config.length)).ravel()
        row[covered[covered < length]] = True
    if config.equalize:
        fewest = int(mask.sum(axis=1).min())
        for row in mask:
            masked = np.flatnonzero(row)
            row[generator.choice(masked, len(masked) - fewest, replace=False)] = False
    return torch.from_numpy(mask)
