"""Checks of parsed JSON against the types of a record's fields."""

import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

hints_of = cache(get_type_hints)


def misfit(value: object, hint: object, name: str) -> str:
    """Return the dotted name of the first part of `value` that is not of its type, or "".

    Args:
        value: Parsed JSON; null stands for a number that is not finite.
        hint: A plain type, list, dict, Literal, a union, or a TypedDict.
        name: Of the value.
    """
    origin, inner = get_origin(hint), get_args(hint)
    # only Json refers to itself, and any parsed value is Json
    if hint is typing.Any or isinstance(hint, ForwardRef):
        return ""
    if hint is float:
        return "" if value is None or type(value) in {int, float} else name
    if origin is Literal:
        return "" if value in inner else name
    if origin in {Union, types.UnionType}:
        return "" if any(not misfit(value, each, name) for each in inner) else name
    if origin in {list, Sequence}:
        if not isinstance(value, list):
            return name
        parts = (misfit(each, inner[0], f"{name}[{n}]") for n, each in enumerate(value))
        return next(filter(None, parts), "")
    if typing.is_typeddict(hint):
        return _misfit_of_fields(value, hint, name)
    if origin in {dict, Mapping}:
        if not isinstance(value, dict):
            return name
        parts = (misfit(each, inner[1], f"{name}.{key}") for key, each in value.items())
        return next(filter(None, parts), "")
    plain = type(None) if hint is None else hint
    return "" if type(value) is plain else name


def _misfit_of_fields(value: object, hint: object, name: str) -> str:
    if not isinstance(value, dict):
        return name
    required: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
    missing = sorted(required - value.keys())
    if missing:
        return f"{name}.{missing[0]}"
    hints = hints_of(hint)
    parts = (misfit(value[key], hints[key], f"{name}.{key}") for key in hints if key in value)
    return next(filter(None, parts), "")
