"""Settings: the values of a config that a mode reads, by dotted key; they identify a record.

A config class declares what is read: every field is, in every mode, unless its metadata is one of
the constants below. A field that cannot move a score is read in none.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt4ssl_bench.errors import ConfigError

Settings = dict[str, Any]  # plain containers by dotted key

FROZEN: Mapping[str, tuple[str, ...]] = {"modes": ("frozen",)}
FINETUNE: Mapping[str, tuple[str, ...]] = {"modes": ("finetune",)}
NEVER: Mapping[str, tuple[str, ...]] = {"modes": ()}


def read_by(config: object, mode: str, prefix: str = "") -> Settings:
    """Return the values of a config dataclass that `mode` reads, nested ones as a.b, tuples as
    lists.
    """
    assert dataclasses.is_dataclass(config)
    found: Settings = {}
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if mode not in field.metadata.get("modes", (mode,)):
            continue
        if dataclasses.is_dataclass(value):
            found |= read_by(value, mode, f"{key}.")
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


def keys_of(config: object, prefix: str = "") -> list[str]:
    """Return every key of a config dataclass, sections and what they hold: decode, decode.lm,
    ...
    """
    assert dataclasses.is_dataclass(config)
    keys: list[str] = []
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        nested = keys_of(value, f"{key}.") if dataclasses.is_dataclass(value) else []
        keys += [key, *nested]
    return keys


def flatten(values: Mapping[str, Any], prefix: str = "") -> Settings:
    """Return nested mappings by dotted key."""
    found: Settings = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def nest(settings: Settings) -> dict[str, Any]:
    """Return what flatten() takes apart: nested mappings, as a recipe file has them."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
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
