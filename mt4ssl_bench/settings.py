"""Settings: the values of a config that a mode reads, by dotted key; they identify a record.

Every field of a config class is read, in every mode, unless its metadata is one of the constants
below. A field that does not affect scores is read in none.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt4ssl_bench.errors import ConfigError

# plain containers, as JSON and YAML have them
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
Settings = dict[str, Any]  # Json by dotted key; records check their fields by it

FROZEN: Mapping[str, tuple[str, ...]] = {"modes": ("frozen",)}
FINETUNE: Mapping[str, tuple[str, ...]] = {"modes": ("finetune",)}
NEVER: Mapping[str, tuple[str, ...]] = {"modes": ()}


def read_by(config: object, mode: str, prefix: str = "") -> Settings:
    """Return the values of a config dataclass that `mode` reads: nested as a.b, tuples as lists."""
    assert dataclasses.is_dataclass(config)
    settings: Settings = {}
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if mode not in field.metadata.get("modes", (mode,)):
            continue
        if dataclasses.is_dataclass(value):
            settings |= read_by(value, mode, f"{key}.")
        else:
            settings[key] = list(value) if isinstance(value, tuple) else value
    return settings


def keys_of(config: object, prefix: str = "") -> list[str]:
    """Return every key of a config dataclass, sections too: decode, decode.lm, and so on."""
    assert dataclasses.is_dataclass(config)
    keys: list[str] = []
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        nested = keys_of(value, f"{key}.") if dataclasses.is_dataclass(value) else []
        keys += [key, *nested]
    return keys


def flatten(values: Mapping[str, Json], prefix: str = "") -> Settings:
    """Return nested mappings by dotted key."""
    settings: Settings = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            settings |= flatten(value, f"{prefix}{name}.")
        else:
            settings[prefix + name] = value
    return settings


def nest(settings: Mapping[str, Json]) -> dict[str, Json]:
    """Return the nested mappings that flatten() takes apart, as a recipe file has them."""
    tree: dict[str, Json] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            inner = place.setdefault(section, {})
            assert isinstance(inner, dict)
            place = inner
        place[name] = value
    return tree


def file_digest(path: str, key: str) -> str:
    """Return 16 hex digits of the SHA-256 of a file, or "" for no file.

    Raises:
        ConfigError: If the file cannot be read; the message names `key`.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else ""
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{key}={path}: cannot be read ({reason})") from None
