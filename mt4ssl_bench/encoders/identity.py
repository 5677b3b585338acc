"""Fingerprints of upstreams: digests of all that determines their features, by a numbered scheme.

Scheme 2 covers the weights, the settings and, for a model without weights or a user's class, the
code. Scheme 1 (`checkpoint.fingerprint`) covered mostly the weights: what was stored under it is
found through `Upstream.former` if it determined the features.
"""

import argparse
import array
import ast
import collections
import decimal
import fractions
import functools
import hashlib
import json
import logging
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mt4ssl_bench.checkpoint import fingerprint

if TYPE_CHECKING:
    from mt4ssl_bench.encoders.protocol import Upstream

LOGGER = logging.getLogger(__name__)
SCHEME = 2
OURS = __name__.partition(".")[0]  # never part of a user's code
_MODULE = vars(nn.Module()).keys()  # what torch keeps in every module
OPAQUE = "opaque"
_PLAIN = (range, slice, complex, array.array, decimal.Decimal, fractions.Fraction)
_NAMESPACES = argparse.Namespace | types.SimpleNamespace  # often hold settings and modules
_SEEN_THROUGH = {"torch", "numpy", *sys.stdlib_module_names}  # described, or no settings
PLACES = {  # attributes that say where a model comes from or runs, not what it computes
    "device",
    "training",
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "_torchdynamo_wrapper_id",  # another one in each process
}


def identify(weights: Mapping[str, Tensor], settings: object) -> str:
    """Return the fingerprint of a model, for example v2-0123456789abcdef.

    Args:
        weights: Tensors by name.
        settings: Plain containers of all other things that its features depend on.
    """
    text = json.dumps([fingerprint(weights), settings], sort_keys=True, default=str)
    return f"v{SCHEME}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_of(upstream: "Upstream", mark: str, *, where: object) -> bool:
    """Return whether `upstream` is the model of the fingerprint `mark`.

    A fingerprint of scheme 1 that other models had, too, is accepted with a warning: a head or
    centres that were trained on the features cannot be computed again.

    Args:
        upstream: The model.
        mark: A fingerprint of any scheme.
        where: What was made from the model, for the warning.
    """
    if mark in getattr(upstream, "insufficient", ()):
        LOGGER.warning(
            "%s: made from fingerprint %s, whose scheme did not cover all settings of %s (%s now); "
            "taken for the same model",
            where,
            mark,
            upstream.name,
            upstream.fingerprint,
        )
        return True
    return mark in {upstream.fingerprint, *getattr(upstream, "former", ())}


def describe(value: object, seen: dict[int, object] | None = None) -> object:
    """Return an object as plain containers: numbers, text, digests of tensors, names of classes.

    Paths, devices, and attributes of objects of torch and the standard library are skipped: they
    do not determine what a model computes. `seen` holds the objects that were described before.
    """
    seen = {} if seen is None else seen
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return None if "/" in value or "\\" in value else value
    if isinstance(value, Tensor):
        return fingerprint({"": value})
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return describe(array.tolist(), seen)
        return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, Mapping):
        return {str(k): describe(v, seen) for k, v in value.items() if k not in PLACES}
    if isinstance(value, list | tuple):
        return [describe(entry, seen) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(describe(entry, seen), sort_keys=True) for entry in value)
    if isinstance(value, functools.partial):
        return [describe(part, seen) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | torch.dtype):
        return str(getattr(value, "__qualname__", value))
    if id(value) in seen:  # shared, or a cycle
        return type(value).__qualname__
    seen[id(value)] = value
    return [type(value).__qualname__, describe(_attributes(value), seen)]


def _attributes(value: object) -> dict[str, object]:
    """Return the attributes of an object that determine what it computes."""
    if isinstance(value, nn.Module):
        own = {key: v for key, v in vars(value).items() if key not in _MODULE}
        # buffers outside of state_dict()
        passing = value._non_persistent_buffers_set  # noqa: SLF001
        modules = value._modules  # noqa: SLF001
        return {**own, **{key: getattr(value, key) for key in passing}, **modules}
    package = type(value).__module__.split(".")[0]
    plain = isinstance(value, _NAMESPACES)
    if not plain and package in {"torch", *sys.stdlib_module_names}:
        return {}
    return dict(getattr(value, "__dict__", {}))


def passed_over(made: object, known: Iterable[nn.Module]) -> Iterator[tuple[str, object]]:
    """Yield what describe() and the weights of modules pass over in an object, by its place in it.

    These are modules outside of `known`, in lists, mappings, functions and other objects; bytes and
    other values of the standard library; attributes in __slots__ and what functions enclose, as
    dicts; and, as OPAQUE, objects of extensions, whose content Python cannot see. Scripts of torch
    are their weights, whatever torch keeps beside them.

    Args:
        made: The object.
        known: Modules whose weights are covered.
    """
    covered = {id(part) for module in known for part in module.modules()}
    seen: set[int] = set()
    left: list[tuple[str, object]] = [("", made)]
    while left:
        place, value = left.pop()
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module) and id(value) not in covered:
            covered |= {id(part) for part in value.modules()}
            yield place, value
        elif isinstance(value, bytes | bytearray | memoryview):
            yield place, hashlib.sha256(value).hexdigest()
        elif isinstance(value, _PLAIN):
            yield place, repr(value)
        inside, described = _inside(value)
        if inside and not described:
            yield place, describe(inside)
        elif not inside and _is_opaque(value):
            yield place, OPAQUE
        left += ((f"{place}.{key}".strip("."), inside[key]) for key in reversed(inside))


def _inside(value: object) -> tuple[dict[str, object], bool]:
    """Return the parts of an object by name, and whether describe() looks at them, too."""
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items() if k not in PLACES}, True
    if isinstance(value, list | tuple | collections.deque):
        return {str(n): v for n, v in enumerate(value)}, not isinstance(value, collections.deque)
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}, True
    if isinstance(value, types.MethodType):
        return {"self": value.__self__, "func": value.__func__}, False
    if isinstance(value, types.FunctionType):
        names, cells = value.__code__.co_freevars, value.__closure__ or ()
        kept = {n: cell.cell_contents for n, cell in zip(names, cells, strict=True) if _full(cell)}
        return {} if _package(value) in _SEEN_THROUGH else kept, False
    known = isinstance(value, type | Tensor | np.ndarray | torch.jit.ScriptModule)
    if known or (slots := _slots(value)) is None:
        return {}, True
    own = {key: v for key, v in _attributes(value).items() if key not in PLACES}
    return {**own, **slots}, not slots


def _slots(value: object) -> dict[str, object] | None:
    """Return the attributes that an object's classes keep in __slots__; None for a library's."""
    if _package(type(value)) in _SEEN_THROUGH:
        return {} if isinstance(value, nn.Module | _NAMESPACES) else None
    slots = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    names = [name for own in slots for name in ([own] if isinstance(own, str) else own)]
    hidden = {*PLACES, "__weakref__", "__dict__"}
    return {n: getattr(value, n) for n in names if n not in hidden and hasattr(value, n)}


def _is_opaque(value: object) -> bool:
    """Return whether an object is of a compiled extension: no method of its class is Python's."""
    bases = type(value).__mro__[:-1]
    written = any(isinstance(v, types.FunctionType) for base in bases for v in vars(base).values())
    return not (written or isinstance(value, type) or _package(type(value)) in _SEEN_THROUGH)


def _package(value: type | types.FunctionType) -> str:
    """Return the package that a class or a function comes from."""
    return str(value.__module__).partition(".")[0]


def _full(cell: types.CellType) -> bool:
    """Return whether a cell of a closure holds a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def code(files: Iterable[Path], roots: Sequence[Path]) -> dict[str, str]:
    """Return digests of source files, by path below the first of `roots` that contains the file."""
    digests = {}
    for file in files:
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        name = file.relative_to(root).as_posix()
        digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def imported(file: Path, roots: Sequence[Path], within: Path = Path("/")) -> list[Path]:
    """Return `file` and the modules below `roots` that it imports, directly or not, sorted.

    Only modules `within` a folder are followed. Imports are read from the source, those inside
    functions too; nothing is run. Computed names (importlib.import_module) are not found.
    """
    reached: set[Path] = set()
    left = [file]
    while left:
        path = left.pop()
        if path not in reached:
            reached.add(path)
            left += (file for file in _imports(path, roots) if file.is_relative_to(within))
    return sorted(reached)


def _imports(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the source files below `roots` that one source file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(roots, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = [path.parents[node.level - 1]] if node.level else roots
            for alias in node.names:  # a name may be a module or stand in one
                yield from _files(base, f"{node.module or ''}.{alias.name}".strip("."))


def _files(roots: Sequence[Path], name: str) -> list[Path]:
    """Return the files that importing the dotted `name` may run: its packages and modules."""
    parts = name.split(".")
    if parts[0] == OURS:
        return []
    for root in roots:
        steps = [root.joinpath(*parts[: n + 1]) for n in range(len(parts))]
        files = [
            file
            for step in steps
            for file in (step.with_name(f"{step.name}.py"), step / "__init__.py")
            if file.is_file()
        ]
        if files:
            return files
    return []


def local_roots(folder: Path) -> list[Path]:
    """Return the folders of a user's modules: `folder`, and sys.path without libraries."""
    paths = [Path(entry or ".").resolve() for entry in sys.path]
    return [folder, *(path for path in paths if path.is_dir() and not is_library(path))]


def is_library(path: Path) -> bool:
    """Return whether a file or folder belongs to Python or to an installed package."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    homes = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return any(path.is_relative_to(home) for home in homes)
