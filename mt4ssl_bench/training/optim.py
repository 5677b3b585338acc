"""Optimiser and learning-rate schedules: a schedule is a factor that depends on the update
alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a tri-stage schedule (MT4SSL, section 8 of the paper's configuration) or a
    constant rate.
    """

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01  # decoupled, on every parameter as published
    schedule: Literal["tri_stage", "constant"] = "tri_stage"
    phases: tuple[float, float, float] = (
        0.03,
        0.9,
        0.07,
    )  # warm-up, hold, decay, as shares of all updates
    init_scale: float = 0.01  # the first update's rate, relative to lr
    final_scale: float = 0.01  # the last one's
    clip_norm: float = 0.0  # gradient norm per parameter group; 0 does not clip


def build_optimizer(groups: Iterable[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return AdamW over groups {"params": ..., "lr": ... (optional)}.

    Each keeps its own rate as "base_lr".
    """
    prepared = [{"lr": config.lr, **group} for group in groups]
    for group in prepared:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(
        prepared,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def factor(step: int, steps: int, config: OptimConfig) -> float:
    """Return the rate, relative to lr, of the update made after `step` completed ones out of
    `steps`.

    Tri-stage: linear from init_scale to 1, hold, then exponential to final_scale; final_scale
    afterwards.
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
