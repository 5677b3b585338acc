"""SpecAugment on features as in SUPERB's ASR, with the draws of s3prl/nn/specaug.py.

Shapes: B batch, T frames, D dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mt4ssl_bench.device import moved

WARP_WINDOW = 5  # frames (SUPERB's ASR recipe, as all numbers here)
CHANNEL_MASKS, CHANNEL_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH = 2, 40


def augment(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) warped in time, with 4 spans of channels and 2 of frames set to zero.

    `lengths` (B,) are on the host. Rows are warped within their real frames;
    padding becomes zero.
    """
    x = torch.stack([_warp(row, length) for row, length in zip(x, lengths.tolist(), strict=True)])
    batch, frames, channels = x.shape
    # drawn on the host, as s3prl draws on a CPU: an accelerator is not waited for
    silent = _masks(batch, channels, CHANNEL_MASKS, CHANNEL_WIDTH)
    hidden = _masks(batch, frames, TIME_MASKS, TIME_WIDTH)
    hidden |= torch.arange(frames)[None] >= lengths[:, None]  # padding
    silent, hidden = moved(silent, x.device), moved(hidden, x.device)
    return x.masked_fill(silent[:, None] | hidden[..., None], 0.0)


def _warp(row: Tensor, length: int) -> Tensor:
    """Stretch the frames before a point and squeeze those after it, or the reverse."""
    if length <= 2 * WARP_WINDOW:
        return row
    center = int(torch.randint(WARP_WINDOW, length - WARP_WINDOW, (1,)))
    warped = int(torch.randint(center - WARP_WINDOW, center + WARP_WINDOW, (1,))) + 1
    parts = ((row[:center], warped), (row[center:length], length - warped))
    sizes = ((part[None, None], (size, row.shape[1])) for part, size in parts)
    resized = [
        F.interpolate(part, size, mode="bicubic", align_corners=False)[0, 0] for part, size in sizes
    ]
    return torch.cat([*resized, row[length:]])


def _masks(batch: int, size: int, count: int, widest: int) -> Tensor:
    """Return True within `count` spans of each row (B, size)."""
    widths = torch.randint(0, widest + 1, (batch, count))
    starts = torch.randint(0, max(1, size - int(widths.max())), (batch, count))
    places = torch.arange(size)
    return ((starts[..., None] <= places) & (places < (starts + widths)[..., None])).any(1)
