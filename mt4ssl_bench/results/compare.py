"""Two upstreams on one task: a paired bootstrap over the same utterances, for each corpus and
recipe both have.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.intervals import Counts, paired_difference
from mt4ssl_bench.results.metrics import METRICS, Metric
from mt4ssl_bench.results.ranking import stored_counts
from mt4ssl_bench.results.record import (
    Hypothesis,
    Result,
    lm_reference,
    load,
    load_hypotheses,
    one_model_each,
)

LOGGER = logging.getLogger(__name__)
Found = tuple[Path, Result]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of A minus that of B in points, with the ends of its 95 % paired bootstrap
    interval.
    """

    corpus: str
    recipe: str
    metric: str
    a: float
    b: float
    value: float
    low: float
    high: float
    method: str
    utterances: int

    def verdict(self, a: str, b: str) -> str:
        """Return what the interval says, in words."""
        if self.low <= 0 <= self.high:
            return f"no difference can be told between {a} and {b}: the interval holds 0"
        return f"{a if METRICS[self.metric].higher_is_better == (self.value > 0) else b} is better"


def compare(a: str, b: str, *, task: str, folder: Path) -> list[Difference]:
    """Compare two upstreams by name (or name@fingerprint), or two record files, on a task or
    recipe.

    Raises BenchError where a name finds nothing or several models, or no two records share corpus
    and recipe.
    """
    ours, theirs = _find(a, task, folder), _find(b, task, folder)
    pairs = [(x, y) for x in ours for y in theirs if _protocol(x[1]) == _protocol(y[1])]
    if not pairs:
        raise BenchError(
            f"compare: {a} and {b} cannot be compared on '{task}': {_why(ours[0][1], theirs[0][1])}"
        )
    if all(x[0] == y[0] for x, y in pairs):
        raise BenchError(f"compare: {a} and {b} are the same record; name two")
    return [difference for x, y in pairs for difference in _differences(x, y)]


def _differences(a: Found, b: Found) -> list[Difference]:
    rows = [{row["id"]: row for row in load_hypotheses(path)} for path, _ in (a, b)]
    lacking = rows[0].keys() ^ rows[1].keys()
    if lacking:
        raise BenchError(
            f"compare: {a[0]} and {b[0]} do not hold the same utterances ({len(lacking)} are in "
            f"one alone, for example '{min(lacking)}'); evaluate both again"
        )
    names = sorted(rows[0])
    sides = [[side[name] for name in names] for side in rows]
    other = [
        name for name, x, y in zip(names, *sides, strict=True) if x["reference"] != y["reference"]
    ]
    if (
        other and a[1].recipe.get("pronunciations") != "all"
    ):  # then each is scored against its nearest
        raise BenchError(
            f"compare: {a[0]} and {b[0]} hold different references of {len(other)} utterances, for "
            f"example '{other[0]}'; evaluate both again"
        )
    found = []
    for name in (name for name in a[1].metrics if name in b[1].metrics):
        metric = METRICS.get(name)
        if metric is None:
            LOGGER.warning("compare: metric '%s' has no definition in this version; skipping", name)
            continue
        value, interval = paired_difference(*(_counts(metric, side, a[1]) for side in sides))
        low, high = interval.low, interval.high
        if metric.higher_is_better:  # the counts are of errors
            value, low, high = 0.0 - value, -high, -low
        found.append(
            Difference(
                corpus=a[1].corpus["name"],
                recipe=a[1].recipe_name,
                metric=name,
                a=a[1].metrics[name].value,
                b=b[1].metrics[name].value,
                value=value,
                low=low,
                high=high,
                method=interval.method,
                utterances=len(names),
            )
        )
    return found


def _counts(metric: Metric, rows: Sequence[Hypothesis], result: Result) -> Counts:
    """The errors of each utterance in the metric's tokens.

    A record's file has those of its main metric.
    """
    if metric.name == result.main_metric:
        return stored_counts(rows)
    if metric.with_lm:
        references, hypotheses = (
            [lm_reference(row) for row in rows],
            [row["with_lm"] for row in rows],
        )
    else:
        references, hypotheses = (
            [row["reference"] for row in rows],
            [row["hypothesis"] for row in rows],
        )
    return metric.counts(references, hypotheses)


def _find(name: str, task: str, folder: Path) -> list[Found]:
    """The records that a name may mean, of one model."""
    if Path(name).is_file():
        return [(Path(name), load(Path(name)))]
    files = sorted(folder.glob("*.json"))
    records = list(zip(files, one_model_each(map(load, files)), strict=True))
    ranked = [
        (path, r) for path, r in records if task in {r.task, r.recipe_name} and r.limit is None
    ]
    if not ranked:
        raise BenchError(
            f"compare: no record of task '{task}' in {folder}; 'mt4ssl-bench evaluate' makes them"
        )
    plain, _, mark = name.partition("@")
    found = [(p, r) for p, r in ranked if r.upstream["name"] == name]
    found = found or [
        (p, r)
        for p, r in ranked
        if mark and r.upstream["name"] == plain and r.upstream["fingerprint"].startswith(mark)
    ]
    if not found:
        known = sorted({r.upstream["name"] for _, r in ranked})
        raise BenchError(
            f"compare: no record of '{name}' on '{task}' in {folder}; {hint(name, known)}"
        )
    models = sorted({r.upstream["fingerprint"] for _, r in found})
    if len(models) > 1:
        choices = ", ".join(f"{name}@{model[:6]}" for model in models)
        raise BenchError(
            f"compare: '{name}' is {len(models)} models in {folder}; name one: {choices}"
        )
    newest = {_protocol(r): (p, r) for p, r in sorted(found, key=lambda one: one[1].created)}
    return list(newest.values())


def _protocol(result: Result) -> tuple[str, ...]:
    """What two records must share: their numbers mean the same then."""
    same = result.identity
    return same.corpus, same.recipe, same.protocol, str(same.limit)


def _why(a: Result, b: Result) -> str:
    """The first thing in which two records' protocols differ."""
    if a.task != b.task:
        return f"one is of task {a.task}, the other of {b.task}"
    if a.corpus["digest"] != b.corpus["digest"]:
        one, other = (f"{r.corpus['name']} ({r.corpus['digest'][:8]})" for r in (a, b))
        return f"one was measured on {one}, the other on {other}"
    ours, theirs = a.identity.settings, b.identity.settings
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            shown = (side.get(key, "the default") for side in (ours, theirs))
            return f"their recipes differ in {key} ({', '.join(map(str, shown))})"
    return (
        f"recipes {a.recipe_name} ({a.mode}, limit {a.limit}), "
        f"{b.recipe_name} ({b.mode}, limit {b.limit})"
    )
