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
    """Return the logits (K, B, ..., V) of K heads of one kind and their lengths (B,): each head's
    own, at once.

    Linear heads are one batched problem. Others run in turn, with the same dropout and masks, so
    that none depends on the others' company.
    """
    if isinstance(heads[0], LinearHead):
        linear = cast("Sequence[LinearHead]", heads)
        x = weigh([head.sum for head in linear], features)
        return project(linear, mean(x, lengths) if isinstance(heads[0], PooledHead) else x), lengths
    seed, found = int(torch.randint(2**31, ())), []
    for head in heads:
        torch.manual_seed(seed)
        logits, frames = head(features, lengths)
        found.append(logits)
    return torch.stack(found), frames


def independent(
    heads: Sequence[nn.Module], features: Tensor, lengths: Tensor
) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Return a call for each LSTM head that returns what run_heads() would, its logits and lengths.

    The calls may run in threads: all random numbers are drawn here, those of run_heads().
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
    """Return whether a head trains on one CPU thread: threads would meet in every step of its LSTM.

    Heads of a sweep then train side by side. A second thread makes one small LSTM faster on a free
    machine, and slower beside other processes: benchmarks/shared_machine.py measures `asr_tiny`,
    whose LSTM has 128 units.
    """
    if not isinstance(head, RecurrentHead) or head.output.weight.device.type != "cpu":
        return False
    return head.output.in_features <= 2 * SMALL
