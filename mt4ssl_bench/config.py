"""Recipes to typed frozen dataclasses.

The dataclass is schema and defaults; a recipe and `a.b=c` hold what differs.

A recipe file may have parts. `tiny` changes keys of what it stands in; `finetune` is another recipe
for the same task. Part `tiny` of asr.yaml is the recipe "asr_tiny", part `tiny` of its part
`finetune` is "asr_finetune_tiny".
"""

import dataclasses
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, reduce
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeVar, cast

import yaml  # type: ignore[import-untyped]
from omegaconf import BooleanNode, DictConfig, ListConfig, Node, OmegaConf, TupleConfig
from omegaconf.errors import OmegaConfBaseException, ValidationError

from mt4ssl_bench.errors import ConfigError, first_line, lines
from mt4ssl_bench.registry import Registry, hint
from mt4ssl_bench.settings import Json

C = TypeVar("C")
# what a layer that does not fit raises
MERGE_ERRORS = (OmegaConfBaseException, TypeError, ValueError)
ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]*[0-7][0-7_]*|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
# key -> the value that is still accepted, and why others are not
Gone = Mapping[str, tuple[object, str]]
Elsewhere = Callable[[str], str]  # an unknown key -> what else to say of it, or ""
PARTS = ("tiny", "finetune")
SUITES = "suites"  # the folder of what is no recipe
PACKAGES: Registry[ModuleType] = Registry(
    "recipe package", {}, group="mt4ssl_bench.recipes", base=ModuleType
)
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """Keys and values from one place, which `source` names in messages."""

    source: str
    values: Mapping[str, Json]


def recipe_names() -> list[str]:
    """Return the names of the recipes of this package and of others, sorted."""
    return sorted(_recipes())


def read_recipe(recipe: str) -> dict[str, Json]:
    """Return a recipe, by name or path of a .yaml file, merged with its base: plain containers."""
    merged = OmegaConf.merge({}, *(layer.values for layer in _layers(recipe)))
    return cast("dict[str, Json]", OmegaConf.to_container(merged))


@cache
def _recipes() -> dict[str, list[Layer]]:
    """Return the layers of every recipe by name; what cannot be used is named in the log."""
    recipes: dict[str, list[Layer]] = {}
    for folder in _folders():
        for file in _yaml_files(folder):
            name = file.name.removesuffix(".yaml")
            try:
                text = file.read_text(encoding="utf-8")
                made = dict(
                    _with_parts(name, str(file), "", _parse(f"recipe {name} ({file})", text))
                )
            except (ConfigError, OSError, UnicodeDecodeError) as error:
                LOGGER.warning("left out: %s", error)
                continue
            for taken in sorted(made.keys() & recipes.keys()):
                other = recipes[taken][-1].source
                LOGGER.warning("%s: not used, %s has that name", made.pop(taken)[-1].source, other)
            recipes |= made
    return recipes


@cache
def suite_files() -> dict[str, Path]:
    """Return the files of suites by name, those of other packages included."""
    files: dict[str, Path] = {}
    for folder in _folders():
        suites = folder / SUITES
        for file in _yaml_files(suites) if suites.is_dir() else ():
            path = Path(str(file))
            if files.setdefault(path.stem, path) != path:
                LOGGER.warning("%s: not used, %s has that name", path, files[path.stem])
    return files


def _folders() -> Iterator[Traversable]:
    """Yield the folders of recipes, of this package and of others."""
    yield resources.files("mt4ssl_bench.recipes")
    yield from (resources.files(package) for _, package in PACKAGES.items())


def _yaml_files(folder: Traversable) -> Iterator[Traversable]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != SUITES:
            yield from _yaml_files(entry)
        elif entry.name.endswith(".yaml"):
            yield entry


def _with_parts(
    name: str, file: str, part: str, values: dict[str, Json]
) -> Iterator[tuple[str, list[Layer]]]:
    """Yield name and layers of a recipe, then of its parts."""
    source = f"recipe {name} ({file}{f', part {part}' if part else ''})"
    parts = {key: values.pop(key) for key in PARTS if key in values}
    yield name, [Layer(source, values)]
    for key, inner in parts.items():
        if not isinstance(inner, dict):
            raise ConfigError(f"{source}: part '{key}': expected keys and values, got '{inner}'")
        # the keys of a frozen recipe mean nothing to fine-tuning, but its task
        shared = {"task": values["task"]} if "task" in values else {}
        below = Layer(source, shared if key == "finetune" else values)
        for full, layers in _with_parts(f"{name}_{key}", file, f"{part}.{key}".strip("."), inner):
            yield full, [below, *layers]


def _layers(recipe: str, seen: tuple[str, ...] = ()) -> Iterator[Layer]:
    """Yield the layers of a recipe, those of its base first."""
    if recipe in seen:
        raise ConfigError(
            f"recipe '{seen[0]}': its base chain loops: {' -> '.join((*seen, recipe))}"
        )
    for layer in _own_layers(recipe):
        values = dict(layer.values)
        base = values.pop("base", None)
        if base is not None:
            yield from _layers(str(base), (*seen, recipe))
        yield Layer(layer.source, values)


def _own_layers(recipe: str) -> list[Layer]:
    path = Path(recipe)
    if path.suffix not in {".yaml", ".yml"}:
        if recipe not in _recipes():
            raise ConfigError(f"unknown recipe '{recipe}'; {hint(recipe, recipe_names())}")
        return _recipes()[recipe]
    if not path.is_file():
        raise ConfigError(f"recipe file {path}: no such file")
    values = _parse(f"recipe {recipe}", path.read_text(encoding="utf-8"))
    return [Layer(f"recipe {recipe}", {k: v for k, v in values.items() if k not in PARTS})]


def _parse(source: str, text: str) -> dict[str, Json]:
    """Return what a recipe file says, as plain containers."""
    _refuse_odd_numbers(source, text)
    try:
        node = OmegaConf.create(text)
    # the YAML reader raises many kinds, all meaning "not a recipe"
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"{source}: not valid YAML: {first_line(error)}") from None
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{source}: expected keys and values, found {type(node).__name__}")
    return cast("dict[str, Json]", OmegaConf.to_container(node))


def load(
    schema: type[C],
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    gone: Gone = MappingProxyType({}),
    elsewhere: Elsewhere = lambda key: "",  # noqa: ARG005
) -> C:
    """Build a `schema` from its defaults, then the recipe, then `a.b=c` overrides.

    Args:
        schema: A config dataclass.
        recipe: The name of a recipe, or the path of a .yaml file.
        overrides: Keys with values, as "optim.lr=1e-3".
        gone: Keys that no longer exist. One that has the accepted value is ignored.
        elsewhere: Called with an unknown key; returns what the error adds, or "" for similar keys.

    Raises:
        ConfigError: For an unknown or ill-typed key; names recipe, part, key and what was expected.
    """
    layers = list(_layers(recipe)) if recipe is not None else []
    layers += [Layer(f"override '{override}'", _read_override(override)) for override in overrides]
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, value=False)
    for layer in layers:
        values = OmegaConf.create(dict(layer.values))
        for key in gone.keys() & values.keys():
            allowed, reason = gone[key]
            if values.pop(key) != allowed:
                raise ConfigError(f"{layer.source}: key '{key}' {reason}")
        try:
            node = OmegaConf.merge(node, _lists(values, node))
        except MERGE_ERRORS as error:
            reason = _explain(error, node, _culprit(values, node), elsewhere)
            raise ConfigError(f"{layer.source}: {reason}") from None
    try:
        return cast("C", OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{recipe or schema.__name__}: {_explain(error, node)}") from None


def to_dict(config: object) -> dict[str, Json]:
    """Return a config dataclass as plain containers, ready for JSON or a checkpoint."""
    assert dataclasses.is_dataclass(config)
    # through JSON, so that a stored config and a new one compare equal: tuples become lists
    text = json.dumps(OmegaConf.to_container(OmegaConf.structured(config)))
    return cast("dict[str, Json]", json.loads(text))


def from_dict(schema: type[C], values: Mapping[str, Json]) -> C:
    """Rebuild a config from to_dict().

    Raises:
        ConfigError: For keys that this version does not have.
    """
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, value=False)
    try:
        return cast("C", OmegaConf.to_object(OmegaConf.merge(node, dict(values))))
    except OmegaConfBaseException as error:
        raise ConfigError(f"stored config: {_explain(error, node)}") from None


def _refuse_odd_numbers(source: str, text: str) -> None:
    """Raise ConfigError for a number that YAML 1.1 reads as another one (010 as 8, 1:30 as 90)."""
    with suppress(yaml.YAMLError):  # reported where the text is read
        for token in yaml.scan(text):
            plain = isinstance(token, yaml.ScalarToken) and token.plain
            if plain and ODD_NUMBER.fullmatch(token.value):
                raise ConfigError(
                    f"{source}: '{token.value}' is another number in YAML; expected it in decimals"
                )


def _read_override(override: str) -> Mapping[str, Json]:
    if "=" not in override or override.startswith("="):
        raise ConfigError(f"override '{override}': expected key=value, for example optim.lr=1e-3")
    _refuse_odd_numbers(f"override '{override}'", override.partition("=")[2])
    try:
        values = OmegaConf.from_dotlist([override])
    except Exception as error:  # noqa: BLE001 - the YAML reader's own kinds, as above
        raise ConfigError(f"override '{override}': not valid YAML: {first_line(error)}") from None
    return cast("dict[str, Json]", OmegaConf.to_container(values))


def _culprit(layer: DictConfig, schema: Node) -> str:
    """Return the first key of `layer` that does not merge; OmegaConf's errors may omit it."""
    for key in map(str, layer):
        value = layer._get_node(key)  # noqa: SLF001 - interpolations are not resolved here
        try:
            OmegaConf.merge(schema, {key: value})
        except MERGE_ERRORS:
            below = _node(schema, key)
            if isinstance(value, DictConfig) and isinstance(below, DictConfig):
                return f"{key}.{_culprit(value, below)}".removesuffix(".?")
            return key
    return "?"


def _node(parent: Node | None, key: str) -> Node | None:
    """Return the node at a key, also one that is not set; None where there is none."""
    if not isinstance(parent, DictConfig) or key not in parent:
        return None
    return cast("Node", parent._get_node(key))  # noqa: SLF001


def _lists(layer: DictConfig, schema: Node | None) -> DictConfig:
    """Let a.b=x stand for a one-element list, and a.b=x,y for two, where the schema has a list."""
    for key in map(str, layer):
        want, value = _node(schema, key), layer[key]
        if isinstance(value, DictConfig):
            layer[key] = _lists(value, want)
        elif isinstance(want, BooleanNode) and type(value) is int and value not in (0, 1):
            error = ValidationError(f"Value '{value}' is not a valid bool")
            error.key = key
            raise error
        elif isinstance(want, ListConfig | TupleConfig):
            if value == "none" and want._is_optional():  # noqa: SLF001
                layer[key] = None
            elif isinstance(value, str | int | float):
                layer[key] = str(value).split(",") if isinstance(value, str) else [value]
    return layer


def _explain(
    error: Exception,
    node: Node,
    culprit: str = "?",
    elsewhere: Elsewhere = lambda key: "",  # noqa: ARG005
) -> str:
    key = str(getattr(error, "full_key", None) or getattr(error, "key", None) or culprit)
    text = lines(getattr(error, "msg", None) or error)[0]
    text = text.replace("Value '$VALUE' of type '$VALUE_TYPE'", "one of its values")
    if "not in" in text or "Key" in text:
        if also := elsewhere(key):
            return f"key '{key}': {also}"
        *sections, last = key.split(".")
        parent = reduce(lambda above, section: _node(above, section) or above, sections, node)
        if isinstance(parent, DictConfig):
            return f"unknown key '{key}'; {hint(last, map(str, parent))}"
    return f"key '{key}': {text}"


Bound = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that
POSITIVE: Bound = ("a number above 0", lambda value: 0 < value < math.inf)
FINITE: Bound = ("a finite number", math.isfinite)
NOT_NEGATIVE: Bound = ("0 or more", lambda value: 0 <= value < math.inf)
AT_LEAST_1: Bound = ("1 or more", lambda value: value >= 1)
SEED: Bound = ("a whole number from 0 to 2**62", lambda value: 0 <= value <= 2**62)
PROBABILITY: Bound = ("a number from 0 to below 1", lambda value: 0 <= value < 1)
SHARE: Bound = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
SHARES: Bound = (
    "shares that add up to 1",
    lambda value: min(value) >= 0 and math.isclose(sum(value), 1, abs_tol=1e-6),
)
Bounds = Mapping[Bound, str]  # a bound -> the keys (a.b) that it holds for, separated by spaces


def check_all_bounds(config: object, prefix: str = "") -> None:
    """Check a config dataclass and all that it nests against the BOUNDS that their classes declare.

    A class that declares bounds of a key replaces those of its parents.

    Raises:
        ConfigError: For the first value that is out of its bound.
    """
    checked: set[str] = set()
    for kind in type(config).__mro__:
        declared: Bounds = vars(kind).get("BOUNDS", {})
        own = [(bound, key) for bound, keys in declared.items() for key in keys.split()]
        for bound, key in own:
            if key not in checked:
                _check_bound(prefix + key, getattr(config, key), bound)
        checked.update(key for _, key in own)
    assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_all_bounds(value, f"{prefix}{field.name}.")


def _check_bound(key: str, value: object, bound: Bound) -> None:
    expected, good = bound
    if not good(value):
        raise ConfigError(f"{key}={value}: expected {expected}")
