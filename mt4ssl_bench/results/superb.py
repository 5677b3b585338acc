"""SUPERB's published rows and points, and which records are on its corpora with its recipes.

A record is only SUPERB's own if it states that everything that moves a score is SUPERB's.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from statistics import fmean
from typing import NotRequired, TypedDict, cast

from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite_records import SettingsOf, as_shipped
from mt4ssl_bench.settings import Json, flatten

Values = Mapping[str, Mapping[str, float]]  # by SUPERB's abbreviation and metric
Fact = str | int | None  # of a record, None if it does not state it


class Anchors(TypedDict):
    """The values of a metric that have 0 and 1000 points."""

    fbank: float
    sota: float


class SuperbTask(TypedDict):
    """A task of SUPERB: its corpus by source and size, and the anchors of its metrics.

    `utterances` are of a role, or of several that "+" joins. `states` has further entries of a
    record's corpus, and its counts, by dotted key; "?" in a text stands for any character.
    """

    task: str
    source: str
    utterances: dict[str, int]
    states: NotRequired[dict[str, str | int]]
    metrics: dict[str, Anchors]


class Published(TypedDict):
    """A published row, with its score."""

    upstream: str
    params_m: float
    score: float
    source: str
    values: Values


class Superb(TypedDict):
    """The content of superb.json."""

    about: str
    rule: str
    tasks: dict[str, SuperbTask]
    rows: list[Published]


@cache
def superb() -> Superb:
    """Return SUPERB's published rows and the anchors of its score."""
    file = resources.files("mt4ssl_bench.results") / "superb.json"
    return cast("Superb", json.loads(file.read_text(encoding="utf-8")))


def points(values: Values, tasks: Sequence[str]) -> float | None:
    """Return the mean points of tasks, None if a value is missing.

    A metric has 1000 * (value - fbank) / (sota - fbank) points; two metrics of a task are averaged
    (superbbenchmark.org).
    """
    of_tasks = []
    for task in tasks:
        own = []
        for metric, anchors in superb()["tasks"][task]["metrics"].items():
            value = values.get(task, {}).get(metric)
            if value is None:
                return None
            span = anchors["sota"] - anchors["fbank"]
            own.append(1000 * (value - anchors["fbank"]) / span)
        of_tasks.append(fmean(own))
    return fmean(of_tasks) if of_tasks else None


def superbs_own(records: Sequence[Result], settings_of: SettingsOf) -> tuple[str, str]:
    """Return SUPERB's abbreviation if recipe and corpus of records are its own, else why not.

    Args:
        records: Of one corpus digest and protocol: what one states of its corpus is true of all.
        settings_of: Return the settings of a recipe.

    Returns:
        The abbreviation or "", and a note on records of SUPERB's recipe and source that are not its
        own; "" on others.
    """
    newest = records[-1]
    for short, task in superb()["tasks"].items():
        if (newest.task, newest.recipe_name) != (task["task"], task["task"]):
            continue
        if not as_shipped(newest, settings_of):
            return "", ""
        if not all(_differing(record, task) for record in records):
            return short, ""
        return "", _reason(newest, task, short)
    return "", ""


def _differing(record: Result, task: SuperbTask) -> dict[str, tuple[Fact, Fact]]:
    """Return what a record does not state, or states otherwise, and SUPERB's value beside it."""
    splits = record.corpus["splits"]
    stated = flatten(cast("Mapping[str, Json]", {**record.corpus, "counts": record.counts}))
    facts: dict[str, tuple[Fact, Fact]] = {"source": (stated.get("source"), task["source"])}
    for roles, count in task["utterances"].items():
        parts = [splits[role]["utterances"] for role in roles.split("+") if role in splits]
        facts[f"utterances of {roles}"] = sum(parts), count
    facts |= {key: (stated.get(key), value) for key, value in task.get("states", {}).items()}
    return {
        key: (own, right)
        for key, (own, right) in facts.items()
        if own is None or not fnmatchcase(str(own), str(right))
    }


def _reason(record: Result, task: SuperbTask, short: str) -> str:
    """Return why a record has no points, "" if its corpus is none of SUPERB's source."""
    differing = _differing(record, task)
    source = record.corpus.get("source")
    missing = [key for key, (own, _) in differing.items() if own is None]
    if source != task["source"] and (source or len(missing) < len(differing)):
        return ""
    parts = [
        f"{key} is {'not recorded' if own is None else repr(own)}, expected {right!r}"
        for key, (own, right) in differing.items()
    ]
    prepare = "prepare the corpus again (same digest) and " if "source" in missing else ""
    again = f"; older records lack it: {prepare}evaluate into another folder" if missing else ""
    where = f"{record.task} on {record.corpus['name']}: not {short} of published rows, no points"
    return f"{where}: {'; '.join(parts)}{again}"
