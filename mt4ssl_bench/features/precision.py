"""How stored features are rounded: fp32, fp16, bf16, or int8 with a scale per vector.

Shapes: T frames, L hidden states, D dimension, W bytes of a stored vector.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mt4ssl_bench.features.forward_pass import Values

Precision = Literal["fp16", "fp32", "bf16", "int8"]
Bytes = NDArray[np.uint8]


def vector_bytes(precision: Precision, dim: int) -> int:
    """Return W, the bytes of a vector of `dim` values; int8 has a scale (fp32) for each."""
    return {"fp32": 4 * dim, "fp16": 2 * dim, "bf16": 2 * dim, "int8": dim + 4}[precision]


def encode(values: Values, precision: Precision) -> Bytes:
    """Return features (L, T, D) as a file holds them, bytes (T, L, W).

    Raises:
        OverflowError: If fp16 cannot hold a value.
    """
    values = np.ascontiguousarray(values.transpose(1, 0, 2), dtype=np.float32)
    if precision == "fp32":
        return values.view(np.uint8)
    if precision == "fp16":
        half = torch.from_numpy(values).half()  # ten times as fast as numpy's conversion
        if not half.isfinite().all():
            raise OverflowError
        return half.numpy().view(np.uint8)
    if precision == "bf16":  # the upper half of fp32, rounded to the nearest, ties to even
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8)
    scale = np.abs(values).max(-1, keepdims=True) / 127
    whole = np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([whole.view(np.uint8), scale.astype(np.float32).view(np.uint8)], axis=-1)


def decode(stored: Bytes, precision: Precision) -> Values:
    """Return bytes (T, L, W) as fp32 features (L, T, D)."""
    if precision == "fp32":
        values = stored.view(np.float32)
    elif precision == "fp16":
        values = torch.from_numpy(stored.view(np.float16)).float().numpy()
    elif precision == "bf16":
        values = (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        scale = np.ascontiguousarray(stored[..., -4:]).view(np.float32)  # (T, L, 1)
        values = stored[..., :-4].view(np.int8) * scale
    return values.transpose(1, 0, 2)
