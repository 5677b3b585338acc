"""Recipes to typed frozen dataclasses: the dataclass is schema and defaults, YAML and a.b=c say
only what differs.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import BooleanNode, DictConfig, ListConfig, OmegaConf, TupleConfig
from omegaconf.errors import OmegaConfBaseException, ValidationError

from mt4ssl_bench.errors import ConfigError, first_line, lines
from mt4ssl_bench.registry import hint

C = TypeVar("C")
MERGE_ERRORS = (
    OmegaConfBaseException,
    TypeError,
    ValueError,
)  # what a layer that does not fit raises
ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]*[0-7][0-7_]*|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
Gone = Mapping[
    str, tuple[object, str]
]  # key -> the value that is still taken, and why others are not


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    folder = resources.files("mt4ssl_bench.recipes")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def read_recipe(recipe: str) -> dict[str, Any]:
    """Read a recipe by name or by path to a .yaml file, its `base:` chain merged in.

    Returns plain containers.
    """
    return _read_chain(recipe, seen=())


def _read_chain(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if recipe in seen:
        raise ConfigError(
            f"recipe '{seen[0]}': its base chain loops: {' -> '.join((*seen, recipe))}"
        )
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"recipe file {path}: no such file")
        text = path.read_text(encoding="utf-8")
    elif recipe in recipe_names():
        text = (resources.files("mt4ssl_bench.recipes") / f"{recipe}.yaml").read_text(
            encoding="utf-8"
        )
    else:
        raise ConfigError(f"unknown recipe '{recipe}'; {hint(recipe, recipe_names())}")
    _refuse_odd_numbers(f"recipe {recipe}", text)
    try:
        node = OmegaConf.create(text)
    # the YAML reader raises many kinds, all meaning "not a recipe"
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"recipe {recipe}: not valid YAML: {first_line(error)}") from None
    if not isinstance(node, DictConfig):
        raise ConfigError(f"recipe {recipe}: expected keys and values, found {type(node).__name__}")
    base = node.pop("base", None)
    if base is not None:
        node = cast("DictConfig", OmegaConf.merge(_read_chain(str(base), (*seen, recipe)), node))
    return cast("dict[str, Any]", OmegaConf.to_container(node))


def load(
    schema: type[C],
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    gone: Gone = MappingProxyType({}),
    elsewhere: Callable[[str], str] = lambda key: "",  # noqa: ARG005
) -> C:
    """Build a `schema` from its defaults, then the recipe, then `a.b=c` overrides.

    Args:
        gone: Keys that are no more; with the value that is still what happens, they are passed
        over. elsewhere: Returns what to say of an unknown key; "" for the nearest known keys.

    Raises:
        ConfigError: For an unknown or ill-typed key; names recipe, key and what was expected.
    """
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ConfigError(
                f"override '{override}': expected key=value, for example optim.lr=1e-3"
            )
    layers: list[tuple[str, Any]] = []
    if recipe is not None:
        layers.append((f"recipe {recipe}", OmegaConf.create(read_recipe(recipe))))
    layers += [(f"override '{override}'", _read_override(override)) for override in overrides]
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, value=False)
    for source, layer in layers:
        for key in gone.keys() & layer.keys():
            allowed, reason = gone[key]
            if layer.pop(key) != allowed:
                raise ConfigError(f"{source}: key '{key}' {reason}")
        try:
            node = OmegaConf.merge(node, _lists(layer, node))
        except MERGE_ERRORS as error:
            said = _explain(error, node, _culprit(layer, node), elsewhere)
            raise ConfigError(f"{source}: {said}") from None
    try:
        return cast("C", OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{recipe or schema.__name__}: {_explain(error, node)}") from None


def to_dict(config: object) -> dict[str, Any]:
    """Return a config dataclass as plain containers, ready for JSON or a checkpoint."""
    assert dataclasses.is_dataclass(config)
    # through JSON, so that a stored config and a new one compare equal: tuples become lists
    return cast(
        "dict[str, Any]",
        json.loads(json.dumps(OmegaConf.to_container(OmegaConf.structured(config)))),
    )


def from_dict(schema: type[C], values: dict[str, Any]) -> C:
    """Rebuild a config from to_dict().

    Raises ConfigError for keys that this version does not know.
    """
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, value=False)
    try:
        return cast("C", OmegaConf.to_object(OmegaConf.merge(node, values)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"stored config: {_explain(error, node)}") from None


def _refuse_odd_numbers(source: str, text: str) -> None:
    """Raise ConfigError for a number that YAML 1.1 takes for another one: 010 is 8 and 1:30 is 90
    there.
    """
    with suppress(yaml.YAMLError):  # reported where the text is read
        for token in yaml.scan(text):
            plain = isinstance(token, yaml.ScalarToken) and token.plain
            if plain and ODD_NUMBER.fullmatch(token.value):
                raise ConfigError(
                    f"{source}: '{token.value}' is another number in YAML; expected it in decimals"
                )


def _read_override(override: str) -> DictConfig:
    _refuse_odd_numbers(f"override '{override}'", override.partition("=")[2])
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # noqa: BLE001 - the YAML reader's own kinds, as above
        raise ConfigError(f"override '{override}': not valid YAML: {first_line(error)}") from None


def _culprit(layer: Any, schema: Any) -> str:  # noqa: ANN401 - OmegaConf nodes
    """Name the first key of `layer` that does not merge, as a.b: OmegaConf's own errors do not
    always say.
    """
    for key in layer:
        value = layer._get_node(key)  # noqa: SLF001 - interpolations are not resolved here
        try:
            OmegaConf.merge(schema, {key: value})
        except MERGE_ERRORS:
            below = schema._get_node(key) if key in schema else None  # noqa: SLF001
            both = isinstance(value, DictConfig) and isinstance(below, DictConfig)
            inner = _culprit(value, below) if both else ""
            return f"{key}.{inner}" if inner else str(key)
    return "?"


def _lists(layer: Any, schema: Any) -> Any:  # noqa: ANN401 - OmegaConf nodes
    """Let a.b=x stand for a one-element list, and a.b=x,y for two, where the schema wants a
    list.
    """
    for key in list(layer):
        if not isinstance(schema, DictConfig) or key not in schema:
            continue
        # the only way to see an unset node
        want, value = schema._get_node(key), layer[key]  # noqa: SLF001
        if isinstance(value, DictConfig):
            layer[key] = _lists(value, want)
        elif isinstance(want, BooleanNode) and type(value) is int and value not in (0, 1):
            error = ValidationError(f"Value '{value}' is not a valid bool")
            error.key = key
            raise error
        elif value == "none" and _may_be_none(want):
            layer[key] = None
        elif isinstance(want, ListConfig | TupleConfig) and isinstance(value, str | int | float):
            layer[key] = str(value).split(",") if isinstance(value, str) else [value]
    return layer


def _may_be_none(want: Any) -> bool:  # noqa: ANN401 - OmegaConf nodes
    return isinstance(want, ListConfig | TupleConfig) and want._is_optional()  # noqa: SLF001


def _explain(
    error: Exception,
    node: Any,  # noqa: ANN401 - OmegaConf's
    culprit: str = "?",
    elsewhere: Callable[[str], str] = lambda key: "",  # noqa: ARG005
) -> str:
    key = getattr(error, "full_key", None) or getattr(error, "key", None) or culprit
    text = lines(getattr(error, "msg", None) or error)[0]
    text = text.replace("Value '$VALUE' of type '$VALUE_TYPE'", "one of its values")
    if "not in" in text or "Key" in text:
        parent: Any = node
        for part in str(key).split(".")[:-1]:
            if not isinstance(parent, DictConfig) or part not in parent:
                break
            parent = parent[part]
        if elsewhere(str(key)):
            return f"key '{key}': {elsewhere(str(key))}"
        if isinstance(parent, DictConfig):
            return f"unknown key '{key}'; {hint(str(key).split('.')[-1], [str(k) for k in parent])}"
    return f"key '{key}': {text}"


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


def check_all_bounds(config: object, prefix: str = "") -> None:
    """Check a config dataclass and all that it nests against the BOUNDS that their classes declare.

    Raises:
        ConfigError: For the first value that is out of its bound.
    """
    for kind in type(config).__mro__:
        declared: Bounds = vars(kind).get("BOUNDS", {})
        for bound, keys in declared.items():
            for key in keys.split():
                _check_bound(prefix + key, getattr(config, key), bound)
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_all_bounds(value, f"{prefix}{field.name}.")


def check_bounds(config: object, bounds: Bounds) -> None:
    """Raise ConfigError for the first value of a config dataclass that is out of its bound."""
    for bound, keys in bounds.items():
        for key in keys.split():
            _check_bound(key, reduce(getattr, key.split("."), config), bound)


def _check_bound(key: str, value: object, bound: Bound) -> None:
    expected, good = bound
    if not good(value):
        raise ConfigError(f"{key}={value}: expected {expected}")
