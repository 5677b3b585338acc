"""Names to lazily imported objects: a name costs nothing until asked for, and a wrong one names its
near misses.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

from mt4ssl_bench.errors import ConfigError

T = TypeVar("T")


def hint(name: str, known: Iterable[str]) -> str:
    """Return "did you mean a, b?" for the near misses of `name`, else the list of what exists."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {', '.join(near)}?"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"known: {shown}"


class Registry(Generic[T]):
    """A table of names to "module:attribute" addresses.

    Args:
        kind: what the names stand for, used in messages ("task").
        addresses: name -> "package.module:attribute".
    """

    def __init__(self, kind: str, addresses: Mapping[str, str]) -> None:
        self.kind = kind
        self._addresses = dict(addresses)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._addresses))

    def get(self, name: str) -> T:
        """Import and return the object behind `name`.

        Raises ConfigError with near misses for an unknown one.
        """
        if name not in self._addresses:
            raise ConfigError(f"unknown {self.kind} '{name}'; {hint(name, self._addresses)}")
        module, attribute = self._addresses[name].split(":")
        return cast("T", getattr(importlib.import_module(module), attribute))
