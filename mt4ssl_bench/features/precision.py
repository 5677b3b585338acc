"""How stored features are rounded: fp32, fp16, bf16, or int8 with a scale per vector.

Shapes: T frames, L hidden states, D dimension, W bytes of a stored vector.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.device import to_host
from mt4ssl_bench.features.forward_pass import Values

Precision = Literal["fp16", "fp32", "bf16", "int8"]
Bytes = NDArray[np.uint8]


def vector_bytes(precision: Precision, dim: int) -> int:
    """Return W, the bytes of a vector of `dim` values; int8 has a scale (fp32) for each."""
    return {"fp32": 4 * dim, "fp16": 2 * dim, "bf16": 2 * dim, "int8": dim + 4}[precision]


def encode(values: Values | Tensor, precision: Precision) -> Bytes:
    """Return features (L, T, D) as a file holds them, bytes (T, L, W).

    A tensor is rounded on its device, and copied to the host rounded.

    Raises:
        OverflowError: If fp16 cannot hold a value.
    """
    x = torch.as_tensor(values).transpose(0, 1).float()
    if not x.numel():  # no frame is left; torch cannot view nothing as bytes
        return np.empty((*x.shape[:2], vector_bytes(precision, x.shape[2])), np.uint8)
    if precision == "fp16":
        x = x.half()
        if not x.isfinite().all():
            raise OverflowError
    elif precision == "bf16":
        x = x.bfloat16()
    elif precision == "int8":
        whole, scale = _whole(x)
        parts = [whole.to(torch.int8).view(torch.uint8), scale.contiguous().view(torch.uint8)]
        return to_host(torch.cat(parts, dim=-1)).numpy()
    return to_host(x.contiguous().view(torch.uint8)).numpy()


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """Return fp32 features (..., D) with the bits that decode(encode()) gives them, on the device.

    Values that fp16 cannot hold become infinite.
    """
    if precision == "fp16":
        return x.half().float()
    if precision == "bf16":
        return x.bfloat16().float()
    if precision == "int8":
        whole, scale = _whole(x)
        return (whole + 0.0) * scale  # int8 has no negative zero
    return x


def _whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the whole numbers (..., D) that int8 holds, as fp32, and their scales (..., 1)."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / torch.where(scale > 0, scale, 1)).round(), scale


def decode(stored: Bytes, precision: Precision) -> Values:
    """Return bytes (T, L, W) as fp32 features (L, T, D)."""
    return decoded(torch.from_numpy(stored), precision).transpose(0, 1).numpy()


def decoded(stored: Tensor, precision: Precision) -> Tensor:
    """Return bytes (..., W) as fp32 vectors (..., D), on their device."""
    if not stored.numel():  # as in encode()
        width = stored.shape[-1]
        dim = width - 4 if precision == "int8" else width // vector_bytes(precision, 1)
        return stored.new_empty((*stored.shape[:-1], dim), dtype=torch.float32)
    if precision == "int8":
        # a copy in any case: a view of one row may begin where no fp32 can
        scale = stored[..., -4:].clone(memory_format=torch.contiguous_format)
        scale = scale.view(torch.float32)  # (..., 1)
        return stored[..., :-4].view(torch.int8) * scale
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return stored.view(kinds[precision]).float()
