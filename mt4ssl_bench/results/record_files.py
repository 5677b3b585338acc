"""Files of a results folder: records as JSON, their answers beside them as JSON lines."""

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.field_types import hints_of, misfit
from mt4ssl_bench.results.intervals import score_interval
from mt4ssl_bench.results.metrics.metric import Score
from mt4ssl_bench.results.record import SCHEMA, Result, plain

LOGGER = logging.getLogger(__name__)
# columns of records that do not say their place: all are of these metrics
PLACES = {"per": 10, "wer": 20, "acc": 30}


def save(result: Result, answers: Sequence[Answer], folder: Path) -> Path:
    """Write the record and, beside it, <stem>.hyp.jsonl; return the record's path.

    Both are written atomically, the record last: where a record exists, its answers do too.
    Numbers that are not finite are written as null.

    Raises:
        CheckpointError: If a file cannot be written (for example, disk full).
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = record_path(result, folder)
    lines = [json.dumps(plain(answer), ensure_ascii=False, allow_nan=False) for answer in answers]
    _write(hypotheses_path(path), "".join(f"{line}\n" for line in lines))
    content = dataclasses.asdict(result)
    del content["file"]
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, indent=2)
    _write(path, text + "\n")
    return path


def load(path: Path) -> Result:
    """Load one record.

    Raises:
        CheckpointError: If the file is damaged or of another schema.
    """
    values = _parse(path, _read(path))
    if values.get("schema") != SCHEMA:
        raise CheckpointError(
            f"result {path}: schema {values.get('schema')}, expected {SCHEMA}; move it away and "
            'run "mt4ssl-bench evaluate" again'
        )
    try:
        utterances = values["counts"].get("test_utterances")
        values["metrics"] = {
            name: Score(**_completed(name, score, utterances))
            for name, score in values["metrics"].items()
        }
        result = Result(**{**values, "file": path})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if field := _misfit(result):
        raise _damaged(path, f"{field} is missing or of another type")
    return result


def load_hypotheses(path: Path) -> list[Answer]:
    """Load the answers beside the record at `path`.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    path = hypotheses_path(path)
    answers: list[Answer] = []
    # splitlines() would also cut at U+2028 inside a text
    for number, line in enumerate(filter(None, _read(path).split("\n")), 1):
        values = _parse(path, line)
        if not _is_answer(values):
            field = misfit(values, Answer, f"line {number}: answer")
            raise _damaged(path, f"{field} is missing or of another type")
        answers.append(values)
    return answers


def answers_beside(record: Result) -> list[Answer]:
    """Return the answers beside a record's file, or none, with a warning, if they are unreadable.

    A record that was not loaded from a file has none.
    """
    try:
        return load_hypotheses(record.file) if record.file else []
    except CheckpointError as error:
        LOGGER.warning("%s; its row is placed by value", error)
        return []


def load_all(folder: Path) -> list[Result]:
    """Load every record of a folder, in order of file name.

    Raises:
        CheckpointError: If one is damaged: a leaderboard without some rows would be wrong.
    """
    return [load(path) for path in record_paths(folder)]


def find(folder: Path, key: str) -> Result | None:
    """Return the record with this key, the newest where there are several, or None."""
    records = [load(path) for path in paths(folder, key)]
    return max(records, key=lambda record: record.created, default=None)


def one_model_each(records: Iterable[Result]) -> list[Result]:
    """Return the records with the fingerprints of scheme 2 for models that list former ones.

    Records list the present fingerprint among the former ones, too.
    """
    records = list(records)
    now = {
        former: record.upstream["fingerprint"]
        for record in records
        for former in record.upstream.get("former", [])
        if former != record.upstream["fingerprint"]
    }

    def renamed(record: Result) -> Result:
        mark = record.upstream["fingerprint"]
        if record.scheme > 1 or mark not in now:
            return record
        return dataclasses.replace(record, upstream={**record.upstream, "fingerprint": now[mark]})

    return [renamed(record) for record in records]


def record_path(result: Result, folder: Path) -> Path:
    """Return the path of this record: <task>-<upstream slug>-<key>.json."""
    return folder / f"{stem(result.task, result.upstream['name'], result.key)}.json"


def stem(task: str, upstream: str, key: str) -> str:
    """Return the name of an evaluation's files: <task>-<upstream slug>-<key>."""
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", upstream).strip("-")[:60] or "upstream"
    return f"{task}-{slug}-{key}"


def record_paths(folder: Path) -> list[Path]:
    """Return the files of a folder's records, in order of file name."""
    return _found(folder, "*.json")


def paths(folder: Path, key: str) -> list[Path]:
    """Return the files of the records with this key."""
    return _found(folder, f"*-{key}.json")


def _found(folder: Path, pattern: str) -> list[Path]:
    """Return files by name, without hidden ones: a Mac writes `._<name>` beside a file."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def hypotheses_path(path: Path) -> Path:
    """Return the path of the answers that belong to a record's path."""
    return path.with_suffix(".hyp.jsonl")


def _completed(name: str, score: dict[str, Any], utterances: int | None) -> dict[str, Any]:
    """Return a score with what older records lack: a title, a place, an interval with a width."""
    if "title" not in score:
        place = {"order": PLACES[name]} if name in PLACES else {}
        score = {**score, "title": name.upper(), **place}
    if "method" in score or score["low"] != score["high"] or not utterances:
        return score
    interval = score_interval(score["value"], utterances)
    return {**score, "low": interval.low, "high": interval.high, "method": interval.method}


def _is_answer(values: object) -> TypeGuard[Answer]:
    return not misfit(values, Answer, "answer")


def _misfit(result: Result) -> str:
    """Return the name of the first field that is not of its type, or ""."""
    values = {name: getattr(result, name) for name in hints_of(Result) if name != "file"}
    scores = values.pop("metrics")
    wrong = [misfit(value, hints_of(Result)[name], name) for name, value in values.items()]
    for name, score in scores.items():
        hints = hints_of(Score)
        wrong += [misfit(getattr(score, k), hints[k], f"metrics.{name}.{k}") for k in hints]
        numbers = {"value": score.value, "low": score.low, "high": score.high}
        wrong += [f"metrics.{name}.{k}" for k, number in numbers.items() if number is None]
    return next(filter(None, wrong), "")


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise CheckpointError(
            f"result {path}: could not be saved ({error}); free the disk or choose another folder"
        ) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        reason = "a folder, not a record" if path.is_dir() else "no such file"
        raise CheckpointError(
            f"result {path}: {reason}; records are the .json files of a results folder"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, f"not JSON ({error})") from None
    if not isinstance(values, dict):
        raise _damaged(path, f"holds a {type(values).__name__}, expected an object")
    return values


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f'result {path}: {reason}; delete it and run "mt4ssl-bench evaluate" again'
    )
