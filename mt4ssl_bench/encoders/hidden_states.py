"""Checks of hidden states: values that are not finite, and values that padding changes.

Shapes: L hidden states, B batch, N samples, T frames, D dimension.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mt4ssl_bench.encoders.protocol import Features

HUGE = torch.finfo(torch.float32).max ** 0.5  # 1.8e19: a larger value's square is infinite in fp32
PROBE = (16_123, 24_000)  # samples of the two noises of padding_leak()
# largest change of a hidden state by padding, relative to its largest value, that is taken for
# rounding: sums in another order change fp32 values by about 1e-6, a norm or a convolution that
# reads padding by 1e-2
LEAK = 1e-4


def broken_layers(values: Tensor) -> str:
    """Return which hidden states of (L, T, D) hold NaN, infinite or HUGE values.

    Returns:
        For example "hidden state 3 of 0-12: 64 of 640 values are NaN or infinite, the largest
        finite one is 2.1"; an empty text if none is broken.
    """
    texts = []
    for layer, rows in enumerate(values.float()):
        finite = rows[torch.isfinite(rows)]
        lost, peak = rows.numel() - len(finite), float(finite.abs().max()) if len(finite) else 0.0
        if lost or peak > HUGE:
            parts = [f"{lost} of {rows.numel()} values are NaN or infinite"] if lost else []
            parts += [f"the largest finite one is {peak:.3g}"] if len(finite) else []
            texts.append(f"hidden state {layer} of 0-{len(values) - 1}: {', '.join(parts)}")
    more = f" ({len(texts) - 1} more hidden states are broken)" if len(texts) > 1 else ""
    return (texts or [""])[0] + more  # later ones read the first


def padding_leak(extract: Callable[[Tensor, Tensor], Features]) -> float:
    """Return how far padding changes an utterance's features, to be compared with LEAK.

    Args:
        extract: The model's Upstream.extract().

    Returns:
        The largest change of a value, relative to the largest value of its hidden state; infinite
        if padding changes the number of frames.
    """
    waves = torch.randn(2, PROBE[1], generator=torch.Generator().manual_seed(0)) / 10
    waves[0, PROBE[0] :] = 0
    padded, counts = extract(waves, torch.tensor(PROBE))
    single, (count,) = extract(waves[:1, : PROBE[0]], torch.tensor(PROBE[:1]))
    if int(count) != int(counts[0]):
        return float("inf")
    expected = single[:, 0, : int(count)].float()
    change = (padded[:, 0, : int(count)].float() - expected).abs().amax((1, 2))  # (L,)
    peak = expected.abs().amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return float((change / peak).max())
