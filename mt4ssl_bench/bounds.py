"""Bounds on a recipe's values: a config says once which of its keys lie within what, before any work."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from mt4ssl_bench.errors import ConfigError

Bound = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that
POSITIVE: Bound = ("a number above 0", lambda value: 0 < value < math.inf)
FINITE: Bound = ("a finite number", math.isfinite)
NOT_NEGATIVE: Bound = ("0 or more", lambda value: 0 <= value < math.inf)
AT_LEAST_1: Bound = ("1 or more", lambda value: value >= 1)
PROBABILITY: Bound = ("a number from 0 to below 1", lambda value: 0 <= value < 1)
SHARE: Bound = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
SHARES: Bound = (
    "shares that add up to 1",
    lambda value: min(value) >= 0 and math.isclose(sum(value), 1, abs_tol=1e-6),
)

Bounds = Mapping[Bound, str]  # a bound -> the keys (a.b) that it holds for, parted by spaces


def check_all(config: object, prefix: str = "") -> None:
    """Check a config dataclass and all that it nests against the BOUNDS that their classes declare.

    Raises:
        ConfigError: For the first value that is out of its bound.
    """
    for kind in type(config).__mro__:
        declared: Bounds = vars(kind).get("BOUNDS", {})
        for bound, keys in declared.items():
            for key in keys.split():
                _check(prefix + key, getattr(config, key), bound)
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_all(value, f"{prefix}{field.name}.")


def check(config: object, bounds: Bounds) -> None:
    """Raise ConfigError for the first value of a config dataclass that is out of its bound."""
    for bound, keys in bounds.items():
        for key in keys.split():
            _check(key, reduce(getattr, key.split("."), config), bound)


def _check(key: str, value: object, bound: Bound) -> None:
    expected, good = bound
    if not good(value):
        raise ConfigError(f"{key}={value}: expected {expected}")
