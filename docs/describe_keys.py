"""The reference of keys: value, default and meaning of each, from the config dataclasses.

The meaning of a key is the comment at the end of its line, or the comment lines above it.
"""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.downstream.task import TASKS, BaseTask, LayerTask
from mt4ssl_bench.upstream.config import PretrainConfig

OF_THE_FILE = ("about", "task", "mode")  # what a recipe file says of itself


@dataclass(frozen=True)
class Key:
    """A key, as the reference writes it."""

    value: str
    default: str
    meaning: str


@cache
def comments(config: type) -> dict[str, str]:
    """Return the comments of the fields that a dataclass itself declares."""
    source = textwrap.dedent(inspect.getsource(config))
    lines = source.splitlines()
    at = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 1
            texts: list[str] = []
            while lines[above - 1].lstrip().startswith("#"):
                texts.insert(0, at[above])
                above -= 1
            end = node.end_lineno or node.lineno
            found[node.target.id] = " ".join([*texts, at.get(end, "")]).strip()
    return found


def meaning(config: type, name: str) -> str:
    """Return the comment of a field, also of one that a parent class declares.

    Raises:
        ValueError: If there is none.
    """
    for base in config.__mro__:
        if dataclasses.is_dataclass(base) and (text := comments(base).get(name)):
            return re.sub(r"([*_|<])", r"\\\1", text).replace("\\<", "&lt;")
    raise ValueError(f"{config.__name__}.{name}: no comment; expected one that says what it is")


def value_of(hint: object) -> str:
    """Return a type as the reference writes it."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if get_origin(hint) is tuple:
        many = "" if Ellipsis not in parts else ", several"
        return value_of(parts[0]) + (many or f", {len(parts)}")
    if NoneType in get_args(hint):
        return f"{value_of(parts[0])} or `null`"
    names = {"bool": "`true` or `false`", "str": "text", "int": "integer", "float": "number"}
    return names[getattr(hint, "__name__", "str")]


def default_of(value: object) -> str:
    """Return a default as a recipe writes it."""
    if isinstance(value, tuple):
        return f"`[{', '.join(str(each) for each in value)}]`"
    written = {None: "null", True: "true", False: "false", "": "''"}
    return f"`{written.get(value, value) if isinstance(value, bool | str | NoneType) else value}`"


def sections(config: object, prefix: str = "") -> Iterator[tuple[str, object, dict[str, Key]]]:
    """Yield each section of a config: its name, itself, and its keys by dotted name."""
    assert dataclasses.is_dataclass(config)
    hints, own, below = get_type_hints(type(config)), {}, []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            below.append((f"{prefix}{field.name}", value))
        elif prefix or field.name not in OF_THE_FILE:
            text = meaning(type(config), field.name)
            key = Key(value_of(hints[field.name]), default_of(value), text)
            own[f"{prefix}{field.name}"] = key
    yield prefix.rstrip("."), config, own
    for name, value in below:
        yield from sections(value, f"{name}.")


def flat(config: object) -> dict[str, Key]:
    """Return all keys of a config by dotted name."""
    return {name: key for *_, keys in sections(config) for name, key in keys.items()}


def as_parent(parent: type[BaseTask] | None, missing: Iterable[str]) -> str:
    """Return how the keys of a task differ from those of the task that it is based on."""
    if parent is None:
        return ""
    without = ", ".join(f"`{key}`" for key in sorted(missing))
    return f"As [{parent.name}](#{parent.name}){f', without {without}' if without else ''}."


def table(keys: dict[str, Key]) -> str:
    """Return a table of keys."""
    head = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    rows = (f"| `{k}` | {v.value} | {v.default} | {v.meaning} |" for k, v in keys.items())
    return "\n".join([*head, *rows])


def written(config: object, title: str) -> str:
    """Return a heading and a table for each section of a config."""
    parts = []
    for name, section, keys in sections(config):
        if keys:
            about = inspect.cleandoc(type(section).__doc__ or "") if name else ""
            parts += [f"## {name or title}", about, table(keys)]
    return "\n\n".join(filter(None, parts)) + "\n"


def pretraining() -> str:
    """Return the keys of a pretraining recipe."""
    return written(PretrainConfig(), "The run")


def evaluation() -> str:
    """Return the keys that all tasks that train have."""
    return written(TaskConfig(), "Every task that trains")


def tasks(*, trained: bool) -> str:
    """Return the keys of tasks that are their own, or have another default than the others'."""
    registered = {kind for _, kind in TASKS.items()}
    found: dict[str, list[str]] = {}  # tasks with the same keys stand together
    for name, kind in TASKS.items():
        if issubclass(kind, LayerTask) == trained:
            continue
        parent = next((each for each in kind.__mro__[1:] if each in registered), None)
        shared = flat(parent.Config() if parent else TaskConfig() if trained else BaseConfig())
        keys = flat(kind.Config())
        own = {key: each for key, each in keys.items() if shared.get(key) != each}
        about = as_parent(parent, shared.keys() - keys.keys())
        found.setdefault("\n\n".join(filter(None, [about, table(own)])), []).append(name)
    return "\n\n".join(f"## {', '.join(who)}\n\n{text}" for text, who in found.items()) + "\n"
