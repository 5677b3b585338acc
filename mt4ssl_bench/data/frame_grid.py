"""The 50 Hz grid of frames that labels, MFCC and MT4SSL share.

It is the geometry of HuBERT's convolutions.
"""

import math

import torch
from torch import Tensor

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
STRIDE = math.prod(STRIDES)  # 320 samples: one frame per 20 ms at 16 kHz
RECEPTIVE_FIELD = 400  # samples that one frame sees


def frame_count(samples: int) -> int:
    """Return how many frames `samples` samples give: 10 s -> 499."""
    return max((samples - RECEPTIVE_FIELD) // STRIDE + 1, 0)


def frame_counts(lengths: Tensor) -> Tensor:
    """Return frame_count() of each of `lengths` (B,)."""
    return torch.div(lengths - RECEPTIVE_FIELD, STRIDE, rounding_mode="floor").add(1).clamp(min=0)
