"""AdamW and learning-rate schedules; a schedule is a factor that depends only on the update."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from mt4ssl_bench.config import NOT_NEGATIVE, POSITIVE, SHARES, Bounds


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, with a constant rate or the tri-stage schedule of the published MT4SSL."""

    lr: float = 5e-4  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.98)  # of AdamW
    eps: float = 1e-6  # of AdamW
    weight_decay: float = 0.01  # decoupled, on every parameter as published
    schedule: Literal["tri_stage", "constant"] = "tri_stage"  # of the learning rate
    phases: tuple[float, float, float] = (0.03, 0.9, 0.07)  # warm-up, hold, decay: shares of steps
    init_scale: float = 0.01  # rate of the first update, relative to lr
    final_scale: float = 0.01  # rate of the last update, relative to lr
    clip_norm: float = 0.0  # maximal gradient norm of a parameter group; 0 does not clip

    BOUNDS: ClassVar[Bounds] = {
        POSITIVE: "lr eps",
        NOT_NEGATIVE: "weight_decay clip_norm init_scale final_scale",
        ("two numbers from 0 to below 1", lambda both: 0 <= min(both) <= max(both) < 1): "betas",
        SHARES: "phases",
    }


class ParameterGroup(TypedDict):
    """Parameters of one learning rate; without `lr`, it is OptimConfig's."""

    params: list[nn.Parameter]
    lr: NotRequired[float]


class GroupAdamW(torch.optim.AdamW):
    """AdamW that leaves a parameter group as it is where `broken` (groups,) is 1, on the device.

    The kernel skips what torch.amp's loss scaling calls found_inf, here by group.
    """

    broken: Tensor | None = None
    found_inf: Tensor

    def _init_group(self, group: dict[str, object], *lists: object) -> bool:  # once in each step()
        if self.broken is not None:
            place = next(n for n, own in enumerate(self.param_groups) if own is group)
            self.found_inf = self.broken[place]
        return bool(super()._init_group(group, *lists))  # type: ignore[no-untyped-call]


def build_optimizer(groups: Iterable[ParameterGroup], config: OptimConfig) -> GroupAdamW:
    """Return AdamW over parameter groups; each keeps its own rate as "base_lr"."""
    return GroupAdamW(
        [
            {"params": group["params"], "lr": (lr := group.get("lr", config.lr)), "base_lr": lr}
            for group in groups
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def factor(step: int, steps: int, config: OptimConfig) -> float:
    """Return the learning rate, relative to lr, of the update after `step` completed ones.

    Tri-stage: linear from init_scale to 1, constant, exponential to final_scale after `steps`
    updates, and constant from then on.
    """
    if config.schedule == "constant":
        return 1.0
    warmup, hold = round(config.phases[0] * steps), round(config.phases[1] * steps)
    decay = steps - warmup - hold
    if step < warmup:
        return config.init_scale + (1 - config.init_scale) * step / warmup
    if step < warmup + hold:
        return 1.0
    if step < steps:
        return math.exp(math.log(config.final_scale) / decay * (step - warmup - hold))
    return config.final_scale


def set_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set each group's rate to its base rate times `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scale
