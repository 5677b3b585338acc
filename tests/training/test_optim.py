"""The learning-rate schedule at its borders, and parameter groups that keep rates of their own."""

import itertools
import math

import pytest
import torch
from torch import nn

from mt4ssl_bench.training.optim import OptimConfig, build_optimizer, factor, set_rates

PUBLISHED = OptimConfig()  # 3 % warm-up, 90 % hold, 7 % decay; from 0.01 to 1 to 0.01
STEPS = 400_000


def test_the_schedule_rises_linearly_holds_and_falls_exponentially() -> None:
    rates = {
        0: 0.01,
        3_000: 0.01 + 0.99 / 4,
        6_000: 0.505,
        12_000: 1.0,
        200_000: 1.0,
        371_999: 1.0,
        372_000: 1.0,
        386_000: 0.1,  # half of the decay: the geometric mean of 1 and 0.01
        400_000: 0.01,
        500_000: 0.01,
    }
    for step, rate in rates.items():
        assert factor(step, STEPS, PUBLISHED) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("steps", [10, 100, 1_000, 12_345])
@pytest.mark.parametrize(
    "phases", [(0.03, 0.9, 0.07), (0.05, 0.65, 0.3), (0.0, 0.5, 0.5), (0.5, 0.5, 0.0)]
)
def test_the_schedule_has_no_jump_at_its_borders(
    steps: int, phases: tuple[float, float, float]
) -> None:
    config = OptimConfig(phases=phases)
    rates = [factor(step, steps, config) for step in range(steps)]
    warmup, hold = round(phases[0] * steps), round(phases[1] * steps)
    decay = steps - warmup - hold
    rise = 0.99 / warmup if warmup else 0.0
    fall = 1 - 0.01 ** (1 / decay) if decay else 0.0  # the largest step down, the first one
    for before, after in itertools.pairwise(rates):
        assert after - before <= rise + 1e-12
        assert before - after <= fall + 1e-12
    assert rates[0] == (0.01 if warmup else 1.0)
    assert max(rates) == 1.0
    assert min(rates) >= 0.01 - 1e-12


def test_a_constant_rate_is_constant() -> None:
    config = OptimConfig(schedule="constant", init_scale=0.5, final_scale=0.1)
    assert {factor(step, 100, config) for step in (0, 1, 50, 99, 100, 1_000)} == {1.0}


def test_other_end_points_are_kept() -> None:
    config = OptimConfig(phases=(0.1, 0.4, 0.5), init_scale=0.2, final_scale=0.05)
    assert factor(0, 100, config) == pytest.approx(0.2)
    assert factor(5, 100, config) == pytest.approx(0.6)
    assert factor(75, 100, config) == pytest.approx(math.sqrt(0.05))
    assert factor(100, 100, config) == 0.05


def test_groups_keep_their_own_base_rates_whatever_the_schedule_says() -> None:
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(
        [{"params": [model.weight]}, {"params": [model.bias], "lr": 1e-2}], OptimConfig(lr=1e-3)
    )
    for scale in (0.01, 1.0, 0.5):
        set_rates(optimizer, scale)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [1e-3 * scale, 1e-2 * scale]
        )
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-3, 1e-2]


def test_the_settings_reach_the_optimiser() -> None:
    config = OptimConfig(lr=2e-3, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.05)
    group = build_optimizer([{"params": nn.Linear(2, 2).parameters()}], config).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (
        2e-3,
        (0.8, 0.9),
        1e-7,
        0.05,
    )


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer([{"params": [weight]}], OptimConfig(lr=0.1, weight_decay=0.5))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_building_an_optimiser_leaves_the_callers_groups_alone() -> None:
    group = {"params": list(nn.Linear(2, 2).parameters())}
    build_optimizer([group], OptimConfig())
    assert list(group) == ["params"]
