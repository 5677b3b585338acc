"""Records to compare: found in a results folder by the name of their upstream."""

from dataclasses import replace
from pathlib import Path

from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.answers import Answer, by_seed
from mt4ssl_bench.results.ranking import any_reference
from mt4ssl_bench.results.record import SCHEME, Result
from mt4ssl_bench.results.record_files import load, load_hypotheses, one_model_each, record_paths

Filed = tuple[Path, Result]  # a record with its file


def records_of(name: str, task: str, folder: Path) -> list[Filed]:
    """Return the records of one model, the newest of each corpus and recipe.

    Args:
        name: A record file, or an upstream's name, with "@" and the first digits of its
            fingerprint where several models share it.
        task: A task or the name of a recipe.
        folder: Of results.

    Raises:
        BenchError: If there is no such record, or there are several such models.
    """
    if Path(name).is_file():
        return [(Path(name), load(Path(name)))]
    files = record_paths(folder)
    ranked = [
        (path, record)
        for path, record in zip(files, one_model_each(map(load, files)), strict=True)
        if task in {record.task, record.recipe_name} and record.limit is None
    ]
    if not ranked:
        raise BenchError(
            f"compare: no record of task '{task}' in {folder}; 'mt4ssl-bench evaluate' makes them"
        )
    if (Path(name) / "checkpoint.pt").is_file():  # a run folder, whose rows have its name
        name = Path(name).resolve().name
    plain, _, mark = name.partition("@")
    named = [(p, r) for p, r in ranked if r.upstream["name"] == name] or [
        (p, r)
        for p, r in ranked
        if mark and r.upstream["name"] == plain and r.upstream["fingerprint"].startswith(mark)
    ]
    if not named:
        known = sorted({r.upstream["name"] for _, r in ranked})
        raise BenchError(
            f"compare: no record of '{name}' on '{task}' in {folder}; {hint(name, known)}"
        )
    models = sorted({r.upstream["fingerprint"] for _, r in named})
    if len(models) > 1:
        choices = ", ".join(f"{name}@{model[:6]}" for model in models)
        raise BenchError(
            f"compare: '{name}' is {len(models)} models in {folder}; name one: {choices}"
        )
    named.sort(key=lambda filed: filed[1].created)
    return list({comparable(record): (path, record) for path, record in named}.values())


def comparable(result: Result) -> tuple[str, ...]:
    """Return what two records must share for their numbers to be compared."""
    identity = result.identity
    return identity.corpus, identity.recipe, result.protocol, str(identity.limit)


def but_for_seeds(result: Result) -> tuple[str, ...]:
    """Return comparable() without the seeds."""
    settings = result.identity.settings
    plain = {key: value for key, value in settings.items() if key not in {"seeds", "over_seeds"}}
    return comparable(replace(result, scheme=SCHEME, settings=plain))


def difference(a: Result, b: Result) -> str:
    """Return the first setting in which two records are not comparable, for a message."""
    if a.task != b.task:
        return f"one is of task {a.task}, the other of {b.task}"
    if a.corpus["digest"] != b.corpus["digest"]:
        ours, theirs = (f"{r.corpus['name']} ({r.corpus['digest'][:8]})" for r in (a, b))
        return f"one was measured on {ours}, the other on {theirs}"
    settings = [record.identity.settings for record in (a, b)]
    for key in {**settings[0], **settings[1]}:
        values = [side.get(key, "the default") for side in settings]
        if values[0] != values[1]:
            return f"their recipes differ in {key} ({values[0]}, {values[1]})"
    return (
        f"recipes {a.recipe_name} ({a.mode}, limit {a.limit}), "
        f"{b.recipe_name} ({b.mode}, limit {b.limit})"
    )


def aligned_answers(a: Filed, b: Filed) -> tuple[list[Answer], list[Answer]]:
    """Return the answers of both records in the order of their ids, one seed after the other.

    Raises:
        BenchError: If they are not to the same items.
    """
    sides = [by_seed(load_hypotheses(path)).values() for path, _ in (a, b)]
    ours, theirs = ([{row["id"]: row for row in part} for part in side] for side in sides)
    ids = [part.keys() for part in (*ours, *theirs)]
    missing = set().union(*ids) - set(ids[0]).intersection(*ids) if ids else set()
    if missing:
        raise BenchError(
            f"compare: {a[0]} and {b[0]} do not hold the same utterances ({len(missing)} are in "
            f"only one, for example '{min(missing)}'); evaluate both again"
        )
    names, parts = sorted(ids[0]), (ours[0], theirs[0])
    texts = ({name: part[name]["reference"] for name in names} for part in parts)
    first, second = texts
    other = [name for name in names if first[name] != second[name]]
    if other and not any_reference(a[1]):
        raise BenchError(
            f"compare: {a[0]} and {b[0]} hold different references of {len(other)} utterances, for "
            f"example '{other[0]}'; evaluate both again"
        )
    left, right = ([part[name] for part in side for name in names] for side in (ours, theirs))
    return left, right
