"""Result records: one JSON file per evaluation, and nothing else is ever read by the
leaderboard.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_type_hints

from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.results import scheme1
from mt4ssl_bench.results.field_types import misfit
from mt4ssl_bench.results.intervals import score_interval
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.settings import Settings

# raised when a field changes its meaning; older records are then refused, not guessed at
SCHEMA = 1


SCHEME = 2  # of identities; raised when they are made in another way


class UpstreamRecord(TypedDict):
    """The model that was measured; `parameters` is their number, `stride` samples per frame.

    `former` are its fingerprints of scheme 1, where records of it may have those.
    """

    name: str
    fingerprint: str
    parameters: int
    num_layers: int
    dim: int
    stride: int
    former: NotRequired[list[str]]


class SplitRecord(TypedDict):
    """The size of one split."""

    utterances: int
    hours: float


class CorpusRecord(TypedDict):
    """What it was measured on; `digest` is the corpus's, `splits` those that this task used.

    `splits` is by role ("train", "valid", "test"), whatever the corpus calls them.
    """

    name: str
    digest: str
    languages: list[str]
    synthetic: bool
    splits: dict[str, SplitRecord]


class Trial(TypedDict):
    """One head of the learning-rate sweep; `valid` is the main metric on validation, None if it
    diverged.
    """

    lr: float
    seed: int
    valid: float | None
    steps: int
    chosen: bool


class Hypothesis(TypedDict):
    """What was decoded for one test utterance, with its edit counts in the main metric's tokens."""

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    substitutions: int
    deletions: int
    insertions: int
    tokens: int
    with_lm: NotRequired[str]  # decoded with a language model
    with_lm_reference: NotRequired[str]  # only in old records with pronunciations=all


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a record is found by: `key` is its digest.

    `settings` are what task and mode read and differs from the defaults. The names of upstream and
    corpus are left out: the same weights under another name are the same model.
    """

    fingerprint: str
    corpus: str  # digest
    recipe: str  # name
    task: str
    version: int
    mode: str
    settings: Settings
    limit: int | None

    @property
    def key(self) -> str:
        """Return 16 hex digits."""
        return digest([SCHEME, dataclasses.asdict(self)])

    @property
    def protocol(self) -> str:
        """Return a digest of what two records must share besides corpus and recipe name to be
        compared.
        """
        return digest([self.task, self.version, self.mode, self.settings])


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that a row of the leaderboard needs, and what is needed to repeat it.

    The first of `metrics` is the main one, named by `main_metric`. `recipe` is all that task and
    mode read, fully resolved, `settings` what of it differs from the defaults and identifies the
    record under its `scheme`; `sweep` holds every learning rate and seed that was tried. `limit` is
    the number of utterances of a dry run, which is never ranked, or None. `wall_seconds` is by
    stage, `created` an ISO time in UTC.

    Raises CheckpointError when the main metric is not the first of the metrics.
    """

    schema: int = SCHEMA
    task: str
    task_version: int
    upstream: UpstreamRecord
    corpus: CorpusRecord
    main_metric: str
    metrics: dict[str, Score]
    recipe_name: str
    recipe: dict[str, Any]
    sweep: list[Trial]
    layer_weights: list[float]
    seeds: list[int]
    limit: int | None
    mode: Literal["frozen", "finetune"]
    versions: dict[str, str]
    git: str | None
    device: str
    wall_seconds: dict[str, float]
    counts: dict[str, int]
    created: str
    # mean L2 norm of each hidden state where the head read it; empty in older records
    layer_norms: list[float] = dataclasses.field(default_factory=list)
    lm_weights: dict[str, float] = dataclasses.field(
        default_factory=dict
    )  # of decoding with a language model
    scheme: int = 1  # records of scheme 1 do not have the field
    settings: Settings = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if next(iter(self.metrics), None) != self.main_metric:
            raise CheckpointError(
                f"result record: main metric '{self.main_metric}', expected the first of "
                f"{list(self.metrics)}"
            )

    @property
    def key(self) -> str:
        """The key under which this record's evaluation looks for it."""
        if self.scheme > 1:
            return self.identity.key
        return former_key(self.identity, self.recipe)

    @property
    def identity(self) -> Identity:
        """The identity of scheme 2, whatever the record's own scheme."""
        old = self.scheme == 1
        return Identity(
            fingerprint=self.upstream["fingerprint"],
            corpus=self.corpus["digest"],
            recipe=self.recipe_name,
            task=self.task,
            version=self.task_version,
            mode=self.mode,
            settings=scheme1.settings(self.task, self.recipe) if old else self.settings,
            limit=self.limit,
        )


def lm_reference(row: Hypothesis) -> str:
    """Return what `with_lm` is scored against."""
    return row.get("with_lm_reference", row["reference"])


def digest(value: object) -> str:
    """Return 16 hex digits of the SHA-256 of `value` as canonical JSON: sorted keys, tuples as
    lists.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def former_key(identity: Identity, recipe: Mapping[str, Any]) -> str:
    """Return the key that a record of scheme 1 has; `recipe` is as scheme1.recipe() returns it."""
    parts = (identity.recipe, dict(recipe), identity.version, identity.limit)
    return digest([identity.fingerprint, identity.corpus, *parts])


def record_path(result: Result, folder: Path) -> Path:
    """Return where save() puts this record: <task>-<upstream slug>-<key>.json."""
    return folder / f"{stem(result.task, result.upstream['name'], result.key)}.json"


def stem(task: str, upstream: str, key: str) -> str:
    """Return how the files of one evaluation are called: <task>-<upstream slug>-<key>."""
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", upstream).strip("-")[:60] or "upstream"
    return f"{task}-{slug}-{key}"


def save(result: Result, hypotheses: Sequence[Hypothesis], folder: Path) -> Path:
    """Write the record and, beside it, <stem>.hyp.jsonl; returns the record's path.

    Both appear complete or not at all, the record last: where a record exists, its hypotheses do
    too. Numbers that are not finite are written as null. Raises CheckpointError when the disk does
    not take them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = record_path(result, folder)
    lines = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in hypotheses]
    _write(hypotheses_path(path), "".join(f"{line}\n" for line in lines))
    text = json.dumps(
        _plain(dataclasses.asdict(result)), ensure_ascii=False, allow_nan=False, indent=2
    )
    _write(path, text + "\n")
    return path


def load(path: Path) -> Result:
    """Read one record.

    Raises CheckpointError naming the file when it is damaged or of another schema.
    """
    values = _parse(path, _read(path))
    if values.get("schema") != SCHEMA:
        raise CheckpointError(
            f"result {path}: schema {values.get('schema')}, expected {SCHEMA}; move it away and "
            "run "
            '"mt4ssl-bench evaluate" again'
        )
    try:
        utterances = values["counts"].get("test_utterances")
        values["metrics"] = {
            name: Score(**_with_width(score, utterances))
            for name, score in values["metrics"].items()
        }
        result = Result(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if wrong := _misfit(result):
        raise _damaged(path, f"{wrong} is missing or of another type")
    return result


def _misfit(result: Result) -> str:
    """Return the name of the first field that is not of its type, or ""."""
    fields = {name: getattr(result, name) for name in get_type_hints(Result)}
    scores = fields.pop("metrics")
    hints, inner = get_type_hints(Result), get_type_hints(Score)
    wrong = [misfit(value, hints[name], name) for name, value in fields.items()]
    for name, score in scores.items():
        wrong += [misfit(getattr(score, k), inner[k], f"metrics.{name}.{k}") for k in inner]
    return next(filter(None, wrong), "")


def record_paths(folder: Path) -> list[Path]:
    """Return the files of a folder's records, in order of file name."""
    return sorted(folder.glob("*.json"))


def load_all(folder: Path) -> list[Result]:
    """Read every record of a folder, in order of file name; empty where there is none.

    Raises CheckpointError for a damaged one: a leaderboard that silently loses rows would be wrong.
    """
    return [load(path) for path in record_paths(folder)]


def _with_width(score: dict[str, Any], utterances: int | None) -> dict[str, Any]:
    """Give an interval to an older record's bootstrap that has no width (all utterances alike)."""
    if "method" in score or score["low"] != score["high"] or not utterances:
        return score
    interval = score_interval(score["value"], utterances)
    return {**score, "low": interval.low, "high": interval.high, "method": interval.method}


def one_model_each(records: Iterable[Result]) -> list[Result]:
    """Return the records with one fingerprint for each model: that of scheme 2, where a record
    lists it as former.
    """
    records = list(records)
    now = {
        former: record.upstream["fingerprint"]
        for record in records
        for former in record.upstream.get("former", [])
    }

    def renamed(record: Result) -> Result:
        mark = record.upstream["fingerprint"]
        if record.scheme > 1 or mark not in now:
            return record
        return dataclasses.replace(record, upstream={**record.upstream, "fingerprint": now[mark]})

    return [renamed(record) for record in records]


def find(folder: Path, key: str) -> Result | None:
    """Return the record with this key, the newest where there are several, or None."""
    records = [load(path) for path in paths(folder, key)]
    return max(records, key=lambda record: record.created, default=None)


def paths(folder: Path, key: str) -> list[Path]:
    """Return the files of the records with this key."""
    return sorted(folder.glob(f"*-{key}.json"))


def hypotheses_path(path: Path) -> Path:
    """Return the hypotheses' file that belongs to a record's path."""
    return path.with_suffix(".hyp.jsonl")


def load_hypotheses(path: Path) -> list[Hypothesis]:
    """Read the hypotheses beside the record at `path`.

    Raises CheckpointError when missing or damaged.
    """
    path = hypotheses_path(path)
    rows: list[Hypothesis] = []
    for line in filter(
        None, _read(path).split("\n")
    ):  # splitlines() would also cut at U+2028 inside a text
        row: Any = _parse(path, line)
        missing = Hypothesis.__required_keys__ - row.keys()
        if missing:
            raise _damaged(path, f"line {len(rows) + 1} lacks {', '.join(sorted(missing))}")
        rows.append(row)
    return rows


def _plain(value: object) -> object:
    """Plain containers for strict JSON: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> None:
    """Write aside in the same folder, then rename."""
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


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f'result {path}: {what}; delete it and run "mt4ssl-bench evaluate" again'
    )
