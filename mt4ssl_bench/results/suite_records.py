"""The records of a suite's rows: those with the settings of recipe and keys; others without any.

Learning rates and seeds may differ, unless the row's keys name them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import SuiteRow
from mt4ssl_bench.settings import Settings

Group = Mapping[str, Result]  # records that can be compared, by fingerprint
# mode and settings of a row's recipe with its keys, as own_settings() gives them of a record; None
# if the recipe cannot be loaded
SettingsOf = Callable[[SuiteRow], Settings | None]
FREE = frozenset(["seeds", "over_seeds", "sweep"])  # SUPERB leaves them to who evaluates
NAMES = {"lr": "sweep"}  # keys that settings have under another name
DEFAULT = "the default"


@dataclass(frozen=True, kw_only=True)
class RowRecords:
    """The comparable records of a suite's row, by fingerprint, and notes on other ones."""

    row: SuiteRow
    records: Group
    notes: tuple[str, ...]


def records_of_rows(
    rows: Sequence[SuiteRow], records: Sequence[Result], settings_of: SettingsOf
) -> list[RowRecords]:
    """Return the records of each row, from all of a folder, oldest first.

    They are on the corpus whose name or folder the row names. Of several corpus digests or
    protocols, those are taken that most upstreams share, the newest of equal ones. Records of other
    settings are taken only if the row has none of its own, and never those of another row.
    """
    wanted = [_Wanted(row, settings_of(row)) for row in rows]
    found = []
    for one in wanted:
        others = [other for other in wanted if other is not one and other.shares(one)]
        found.append(_found(one, others, records))
    return found


def as_shipped(record: Result, settings_of: SettingsOf) -> bool:
    """Return whether a record has the settings of its recipe, but for rates and seeds."""
    row = SuiteRow(task=record.task, recipe=record.recipe_name)
    wanted = _Wanted(row, settings_of(row))
    return record.limit is None and wanted.settings is not None and wanted.has(record)


def own_settings(record: Result) -> Settings:
    """Return mode and settings of a record, also of one of scheme 1."""
    return {"mode": record.mode} | record.identity.settings


@dataclass(frozen=True)
class _Wanted:
    """A row with the settings of its recipe and keys, None if they are unknown."""

    row: SuiteRow
    settings: Settings | None

    @property
    def where(self) -> str:
        """The row's task and corpus, for notes."""
        return f"{self.row.task} on {self.row.corpus}"

    @property
    def recipe(self) -> str:
        """The row's recipe and keys, for notes."""
        keys = f" with {', '.join(self.row.keys)}" if self.row.keys else ""
        return f"recipe {self.row.recipe_name}{keys}"

    def shares(self, other: "_Wanted") -> bool:
        """Return whether the rows have the same recipe and corpus, and known settings."""
        rows = [(row.task, row.recipe_name, row.corpus) for row in (self.row, other.row)]
        return rows[0] == rows[1] and self.settings is not None

    def has(self, record: Result) -> bool:
        """Return whether a record has these settings; any record has unknown ones."""
        return not self.differing(record)

    def differing(self, record: Result) -> list[str]:
        """Return the settings in which a record differs, as "key=value instead of value"."""
        if self.settings is None:
            return []
        named = {key.partition("=")[0].strip() for key in self.row.keys}
        free = FREE - {NAMES.get(name, name) for name in named}
        own, wanted = own_settings(record), self.settings
        keys = sorted({*own, *wanted} - free)
        values = ((key, own.get(key, DEFAULT), wanted.get(key, DEFAULT)) for key in keys)
        return [f"{key}={here} instead of {there}" for key, here, there in values if here != there]


def _found(one: _Wanted, others: Sequence[_Wanted], records: Sequence[Result]) -> RowRecords:
    row, notes = one.row, list[str]()
    groups = _groups(row, records)
    own = [group for group in groups if one.has(_first(group))]
    free = [each for each in groups if not any(other.has(_first(each)) for other in others)]
    if not (shown := own or free):
        none = f"no record of {row.task}, {one.recipe}, on {row.corpus}"
        return RowRecords(row=row, records={}, notes=(none,))
    *_, chosen = sorted(shown, key=len)
    if one.settings is None:
        notes.append(f"{one.where}: settings of recipe {row.recipe} are not known here")
    elif not own:
        differing = ", ".join(one.differing(_first(chosen)))
        notes.append(f"{one.where}: no record has the settings of {one.recipe}; shown: {differing}")
    if left := sum(len(group) for group in free if group is not chosen):
        notes.append(f"{one.where}: {left} records of another corpus or other settings left out")
    return RowRecords(row=row, records=chosen, notes=tuple(notes))


def _groups(row: SuiteRow, records: Sequence[Result]) -> list[Group]:
    """Return the records of a row's recipe and corpus by corpus digest and protocol.

    The group of the newest record is the last one, and the newest record the last one of its group.
    """
    groups: dict[tuple[str, str], dict[str, Result]] = {}
    for record in records:
        if (
            (record.task, record.recipe_name) == (row.task, row.recipe_name)
            and row.corpus in {record.corpus["name"], record.corpus.get("folder")}
            and record.limit is None
        ):
            group = record.corpus["digest"], record.protocol
            models = groups.pop(group, {})
            models.pop(record.upstream["fingerprint"], None)
            groups[group] = models | {record.upstream["fingerprint"]: record}
    return list(groups.values())


def _first(group: Group) -> Result:
    """Return a record of a group; all have the same settings."""
    return next(iter(group.values()))
