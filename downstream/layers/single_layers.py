"""Keys that name single hidden states, and heads that read one instead of a weighted sum."""

import re

import torch
from torch import nn

from mt4ssl_bench.downstream.heads.weighted_sum import WeightedSum
from mt4ssl_bench.errors import ConfigError

ALL = "all"
FORM = re.compile(r"(\d+)(?:-(\d+))?")  # 9, 4-9


def check_layers(layer: int | None, layers: str) -> str:
    """Return the one text that the keys `layer` and `layers` mean: "", "9", "4-9" or "all".

    Raises:
        ConfigError: For any other value, a reversed range, or both keys.
    """
    if layer is not None and layers:
        raise ConfigError(f"layer={layer} layers={layers}: expected one of the two keys")
    text, key = (layers, "layers") if layer is None else (str(layer), "layer")
    if text in {"", ALL}:
        return text
    found = FORM.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ConfigError(
            f"{key}={text}: expected a hidden state (layer=9), a range from low to high "
            "(layers=4-9), or layers=all"
        )
    return f"{first}-{last}" if first < last else str(first)


def numbers(text: str, num_layers: int) -> list[int]:
    """Return the hidden states that a text of check_layers() names; none for "".

    Raises:
        ConfigError: If the upstream has fewer.
    """
    if text in {"", ALL}:
        return list(range(num_layers)) if text else []
    first, _, last = text.partition("-")
    named = range(int(first), int(last or first) + 1)
    if named[-1] >= num_layers:
        raise ConfigError(
            f"layers={text}: the upstream has no layer {max(named[0], num_layers)}; expected "
            f"hidden states from 0 to {num_layers - 1}"
        )
    return list(named)


def read_one_layer(head: nn.Module, layer: int) -> None:
    """Let a head read one hidden state: the weights of its sum are fixed at 1 for it, 0 for others.

    Raises:
        ConfigError: If the head has no weighted sum.
    """
    sums = [module for module in head.modules() if isinstance(module, WeightedSum)]
    if not sums:
        raise ConfigError(
            f"layers={layer}: {type(head).__name__} has no weighted sum of hidden states to "
            "replace; expected a task whose head has one"
        )
    for each in sums:
        with torch.no_grad():
            each.scores.fill_(-torch.inf)[layer] = 0.0  # the softmax of these is exactly one-hot
        each.scores.requires_grad = False
        each.layer = layer
