"""Registries: names of objects that are imported when they are first used.

Another package adds names through entry points of the registry's group. If an entry point cannot
be used (import error, other version, name already taken), one line is logged or raised, and all
other names keep working.
"""

import difflib
import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import Distribution, EntryPoint, entry_points, version
from typing import Generic, TypeVar, cast

from mt4ssl_bench.errors import ConfigError, with_class

T = TypeVar("T")
DISTRIBUTION = "mt4ssl-bench"
LOGGER = logging.getLogger(__name__)


def hint(name: str, known: Iterable[str]) -> str:
    """Return "did you mean a, b?" with names similar to `name`, else the list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {', '.join(near)}?"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"known: {shown}"


class Registry(Generic[T]):
    """A table of names to "module:attribute" addresses.

    Args:
        kind: What the names stand for, used in messages ("task").
        addresses: Name -> "package.module:attribute", of this package.
        group: The entry-point group through which other packages add names; "" for none.
        base: What an added object must be: a subclass of this class without abstract methods, or
            an instance of it.
    """

    def __init__(
        self,
        kind: str,
        addresses: Mapping[str, str],
        *,
        group: str = "",
        base: type = object,
    ) -> None:
        self.kind = kind
        self._addresses = dict(addresses)
        self._group, self._base = group, base

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._addresses, *self._added}))

    def get(self, name: str) -> T:
        """Import and return the object behind `name`.

        Raises:
            ConfigError: If the name is unknown (with similar names), or if another package
                registers it and it cannot be used (with the package and the reason).
        """
        if name in self._addresses:
            module, attribute = self._addresses[name].split(":")
            return cast("T", getattr(importlib.import_module(module), attribute))
        if name in self._added:
            return self._load(self._added[name])
        raise ConfigError(f"unknown {self.kind} '{name}'; {hint(name, self)}")

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield every name with its object, sorted; names that cannot be used are logged."""
        for name in self:
            try:
                yield name, self.get(name)
            except ConfigError as error:
                LOGGER.warning("left out: %s", error)

    @cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; several of one name are an error when the name is used."""
        added: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self._group) if self._group else ():
            if point.name in self._addresses:
                LOGGER.warning(
                    "%s '%s' of %s: not used, this package has one of that name",
                    self.kind,
                    point.name,
                    _package(point),
                )
            elif point not in added.setdefault(point.name, []):
                added[point.name].append(point)
        return added

    def _load(self, points: list[EntryPoint]) -> T:
        point = points[0]
        where = f"{self.kind} '{point.name}' of {_package(point)}"
        if len(points) > 1:
            others = " and ".join(_package(other) for other in points[1:])
            raise ConfigError(f"{where}: {others} registers that name too; uninstall one of them")
        if point.dist and (wanted := _other_version(point.dist)):
            raise ConfigError(
                f"{where}: made for {wanted}, this is {version(DISTRIBUTION)}; install a version "
                "of it that fits"
            )
        try:
            loaded = point.load()
        # somebody else's module raises what it likes
        except Exception as error:  # noqa: BLE001
            raise ConfigError(
                f"{where}: {point.value} cannot be imported ({with_class(error)})"
            ) from None
        if complaint := self._complaint(loaded):
            raise ConfigError(f"{where}: {point.value} {complaint}")
        return cast("T", loaded)

    def _complaint(self, loaded: object) -> str:
        if isinstance(loaded, self._base):
            return ""
        if not (isinstance(loaded, type) and issubclass(loaded, self._base)):
            return f"is no {self._base.__name__} ({type(loaded).__name__})"
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        return (
            f"lacks {', '.join(missing)}, as this version's {self._base.__name__} has"
            if missing
            else ""
        )


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def _other_version(package: Distribution) -> str:
    """Return what a package requires of this one, where this version is outside it, else ""."""
    from packaging.requirements import InvalidRequirement, Requirement  # takes 50 ms

    for text in package.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name.lower().replace("_", "-") == DISTRIBUTION and not (
            requirement.specifier.contains(version(DISTRIBUTION), prereleases=True)
        ):
            return str(requirement)
    return ""
