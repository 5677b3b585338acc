"""Small LSTM heads on a CPU, each on a thread of its own: the bits of run_heads(), sooner.

Shapes: L hidden states, B batch, T frames, D dimension, K heads.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.device import seed_torch
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead

SMALL = 256  # LSTM units of a direction up to which a head trains on one CPU thread


def serial(head: nn.Module) -> bool:
    """Return whether a head trains on one CPU thread, beside the other heads of the sweep.

    Threads would wait for each other in every step of its LSTM. A second thread makes one small
    LSTM faster on a free machine, and slower beside other processes: benchmarks/shared_machine.py
    measures `asr_tiny`, whose LSTM has 128 units.
    """
    if not isinstance(head, RecurrentHead) or head.output.weight.device.type != "cpu":
        return False
    return head.output.in_features <= 2 * SMALL


def backward(
    executor: Executor,
    loss: Callable[[Tensor, Tensor, list[Tensor]], Tensor],
    heads: Sequence[nn.Module],
    features: Tensor,
    lengths: Tensor,
    targets: list[Tensor],
) -> Tensor:
    """Return the heads' mean losses (K,); each head has added its gradient, see poisoned().

    Args:
        executor: From threads.side_by_side().
        loss: Task.loss.
        heads: RecurrentHeads.
        features: (L, B, T, D).
        lengths: (B,).
        targets: Of the batch.
    """

    def train(logits: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        value = poisoned(loss(*logits(), targets).mean())
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    losses = torch.stack(list(executor.map(train, _independent(heads, features, lengths))))
    return losses.requires_grad_()  # the trainer's backward() ends here


def poisoned(losses: Tensor) -> Tensor:
    """Return losses; the gradient of one that is not finite is NaN, by which its head is found."""
    return losses * torch.where(losses.isfinite(), 1.0, math.nan)


def _independent(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Return a call for each head, for its logits and lengths as run_heads() gives them.

    The calls may run in threads: all random numbers, those of run_heads(), are drawn here.
    """
    recurrent = cast("Sequence[RecurrentHead]", heads)
    seed, sums = int(torch.randint(2**31, ())), []
    for head in recurrent:
        seed_torch(seed)
        sums.append(head.augmented(features, lengths))
    first = recurrent[0]
    ones = first.output.weight.new_ones(*features.shape[1:3], first.output.in_features)
    dropouts = [first.dropout(ones).mul for _ in first.forwards]  # the draws of each layer's
    return [
        partial(head.recur, x, lengths, dropouts) for head, x in zip(recurrent, sums, strict=True)
    ]
