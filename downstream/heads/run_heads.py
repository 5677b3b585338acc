"""Several heads on one batch: linear ones as one batched problem, others in turn."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mt4ssl_bench.downstream.heads.linear import LinearHead, project
from mt4ssl_bench.downstream.heads.pooled import PooledHead, mean
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.weighted_sum import weigh

SMALL = 256  # LSTM units of a direction up to which a head trains on one CPU thread


def run_heads(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits (K, B, ..., V) of K heads of one kind, and their lengths (B,).

    Linear heads are one batched problem. Others run in turn, each with the same dropout and masks,
    so that no head depends on the others.
    """
    if isinstance(heads[0], LinearHead):
        linear = cast("Sequence[LinearHead]", heads)
        x = weigh([head.sum for head in linear], features)
        return project(linear, mean(x, lengths) if isinstance(heads[0], PooledHead) else x), lengths
    seed, rows = int(torch.randint(2**31, ())), []
    for head in heads:
        torch.manual_seed(seed)
        logits, counts = head(features, lengths)
        rows.append(logits)
    return torch.stack(rows), counts


def independent(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Return a call for each LSTM head, for its logits and lengths as run_heads() gives them.

    The calls may run in threads: all random numbers, those of run_heads(), are drawn here.
    """
    recurrent = cast("Sequence[RecurrentHead]", heads)
    seed, sums = int(torch.randint(2**31, ())), []
    for head in recurrent:
        torch.manual_seed(seed)
        sums.append(head.augmented(features, lengths))
    factors = [noise.mul for noise in recurrent[0].noise(*features.shape[1:3])]
    return [
        partial(head.recur, x, lengths, factors) for head, x in zip(recurrent, sums, strict=True)
    ]


def serial(head: nn.Module) -> bool:
    """Return whether a head trains on one CPU thread, beside the other heads of the sweep.

    Threads would wait for each other in every step of its LSTM. A second thread makes one small
    LSTM faster on a free machine, and slower beside other processes: benchmarks/shared_machine.py
    measures `asr_tiny`, whose LSTM has 128 units.
    """
    if not isinstance(head, RecurrentHead) or head.output.weight.device.type != "cpu":
        return False
    return head.output.in_features <= 2 * SMALL
