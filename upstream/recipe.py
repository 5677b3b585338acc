"""Pretraining recipes and stored configs, with the target extractors that are installed.

Another package adds an extractor through an entry point of the group mt4ssl_bench.targets. Its
settings are the section targets.<name> of a recipe. Their weight is 0 unless the recipe sets it.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import cast

from mt4ssl_bench.config import from_dict, load, to_dict
from mt4ssl_bench.errors import ConfigError, with_class
from mt4ssl_bench.settings import Json
from mt4ssl_bench.upstream.config import PretrainConfig, TargetsConfig, check
from mt4ssl_bench.upstream.targets import TARGETS, TargetConfig

LOGGER = logging.getLogger(__name__)
LATER = ("mels", "stack", "warp", "from_update")  # stored only if set: old runs go on without
BUILT_IN = tuple(TargetsConfig().sections())  # what every installation has


def load_config(recipe: str, keys: Sequence[str] = ()) -> PretrainConfig:
    """Return the checked config of a recipe (a name or a .yaml file) and `a.b=c` keys.

    Raises:
        ConfigError: For an unknown or ill-typed key, and for values that do not fit together.
    """
    return check(load(schema(), recipe, keys, elsewhere=_unusable_extractor))


@functools.cache
def schema() -> type[PretrainConfig]:
    """Return PretrainConfig with a section for each installed target extractor.

    The extractors of other packages have weight 0 unless a recipe says otherwise.
    """
    added = []
    for name in TARGETS:
        if name not in BUILT_IN:
            try:
                config = _added_config(name)
            except ConfigError as error:
                LOGGER.warning("left out: %s", error)
            else:
                default = field(default_factory=functools.partial(config, weight=0.0))
                added.append((name, config, default))
    if not added:
        return PretrainConfig
    frozen = functools.partial(make_dataclass, frozen=True, kw_only=True)
    targets = frozen("TargetsConfig", added, bases=(TargetsConfig,))
    section = ("targets", targets, field(default_factory=targets))
    return cast(
        "type[PretrainConfig]", frozen("PretrainConfig", [section], bases=(PretrainConfig,))
    )


def _added_config(name: str) -> Callable[..., TargetConfig]:
    """Return the class of the settings of an extractor of another package.

    Raises:
        ConfigError: If there is no such extractor, or it cannot be used.
    """
    kind = TARGETS.get(name)
    try:
        config: Callable[..., TargetConfig] = kind.Config
        to_dict(config(weight=0.0))
        matches = kind.name == name
    except Exception as error:  # noqa: BLE001 - somebody else's class raises what it likes
        raise ConfigError(
            f"target extractor '{name}': {kind.__qualname__}.Config is unusable "
            f"({with_class(error)}); expected a frozen dataclass with `weight`, all with defaults"
        ) from None
    if not matches:
        raise ConfigError(f"target extractor '{name}': its class has the name '{kind.name}'")
    return config


def to_stored(config: PretrainConfig) -> dict[str, Json]:
    """Return a config as a checkpoint holds it, without the added extractors that it leaves out.

    So a run that uses none of them does not depend on which packages are installed. fit.track is
    left out, too: a run is the same one with and without it.
    """
    values: dict[str, Json] = to_dict(config)
    values["frontend"] = _without_later(config.frontend)
    values["fit"] = {key: value for key, value in to_dict(config.fit).items() if key != "track"}
    values["targets"] = {
        name: _without_later(section)
        for name, section in config.targets.sections().items()
        if name in BUILT_IN or section.weight
    }
    return values


def _without_later(section: object) -> dict[str, Json]:
    default = type(section)()
    return {
        key: value
        for key, value in to_dict(section).items()
        if key not in LATER or value != getattr(default, key)
    }


def from_stored(values: Mapping[str, Json]) -> PretrainConfig:
    """Return the config of a checkpoint without added extractors, which an upstream does not need.

    Raises:
        ConfigError: For keys that this version does not have.
    """
    targets = cast("Mapping[str, Json]", values.get("targets", {}))
    built_in = {name: targets[name] for name in BUILT_IN if name in targets}
    return from_dict(PretrainConfig, {**values, "targets": built_in})


def _unusable_extractor(key: str) -> str:
    """Return why targets.<name>... names no extractor that can be used, or "" for other keys."""
    section, _, rest = key.partition(".")
    name = rest.partition(".")[0]
    if section != "targets" or name in {"", *BUILT_IN}:
        return ""
    try:
        _added_config(name)
    except ConfigError as error:
        installed = name in TARGETS
        return (
            str(error)
            if installed
            else f"{error}; if another package adds it, install that package"
        )
    return ""
