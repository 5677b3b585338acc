"""SpecAugment on features as in SUPERB's ASR, with the draws of s3prl/nn/specaug.py.

Shapes: B batch, T frames, D dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WARP_WINDOW = 5  # frames (SUPERB's ASR recipe, as all numbers here)
CHANNEL_MASKS, CHANNEL_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH = 2, 40


def augment(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x (B, T, D) warped in time, with 4 spans of channels and 2 of frames set to zero.

    Rows are warped within their real frames; padding becomes zero.
    """
    x = torch.stack([_warp(row, length) for row, length in zip(x, lengths.tolist(), strict=True)])
    hidden = (
        _masks(x, CHANNEL_MASKS, CHANNEL_WIDTH, axis=2)[:, None]
        | _masks(x, TIME_MASKS, TIME_WIDTH, axis=1)[..., None]
    )
    padding = torch.arange(x.shape[1], device=x.device)[None] >= lengths[:, None]
    return x.masked_fill(hidden | padding[..., None], 0.0)


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


def _masks(x: Tensor, count: int, widest: int, *, axis: int) -> Tensor:
    """Return True within `count` spans of each row (B, size of the axis)."""
    size = x.shape[axis]
    widths = torch.randint(0, widest + 1, (len(x), count), device=x.device)
    starts = torch.randint(0, max(1, size - int(widths.max())), (len(x), count), device=x.device)
    places = torch.arange(size, device=x.device)
    return ((starts[..., None] <= places) & (places < (starts + widths)[..., None])).any(1)
