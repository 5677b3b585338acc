"""Result records: everything that the leaderboard reads, and what identifies an evaluation."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.results import earlier_identities
from mt4ssl_bench.results.metrics.metric import Score
from mt4ssl_bench.results.record_parts import CorpusRecord, LayerScore, Trial, UpstreamRecord
from mt4ssl_bench.settings import Json, Settings

SCHEMA = 1  # raised when a field changes its meaning; records of another schema are rejected
SCHEME = 2  # of identities; raised when they are computed in another way


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The parts of a record's key: `corpus` is a digest, `recipe` a name.

    `settings` are values that task and mode read and that differ from the defaults. The names of
    upstream and corpus are not part of it.
    """

    fingerprint: str
    corpus: str
    recipe: str
    task: str
    version: int
    mode: str
    settings: Settings
    limit: int | None

    @property
    def key(self) -> str:
        """16 hex digits."""
        return digest([SCHEME, dataclasses.asdict(self)])

    @property
    def protocol(self) -> str:
        """See Result.protocol."""
        return digest([self.task, self.version, self.mode, self.settings])


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation: a row of the leaderboard, and what is needed to repeat it.

    Attributes:
        metrics: By name; the main one (`main_metric`) is the first.
        recipe: Everything that task and mode read, fully resolved.
        sweep: Every learning rate and seed that was tried.
        layer_norms: Mean L2 norm of each hidden state where the head read it; empty in old records.
        lm_weights: Of decoding with a language model.
        tuned: What Task.tune() chose on valid: how the hypotheses on test were decoded.
        chosen_by: Heading of the metric on valid that chose learning rate and update; "" if it is
            the main one.
        layer_scores: By metric, the scores of layers: of all where a task trains nothing, of the
            best head on each where heads read single layers.
        layer: The layer of `metrics` where there are such scores; it is the best one on the split
            `chosen_on`.
        folds: Main metric of each fold, of a task with folds.
        limit: Utterances per split of a partial result, which is never ranked, or None.
        wall_seconds: By stage.
        created: ISO time in UTC.
        settings: What of the recipe differs from the defaults; identifies the record.
        scheme: Of the identity; records of scheme 1 do not have the field.
        file: Where the record was loaded from; not stored.

    Raises:
        CheckpointError: If the main metric is not the first of the metrics.
    """

    schema: int = SCHEMA
    task: str
    task_version: int
    upstream: UpstreamRecord
    corpus: CorpusRecord
    main_metric: str
    metrics: dict[str, Score]
    recipe_name: str
    recipe: dict[str, Json]
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
    layer_norms: list[float] = dataclasses.field(default_factory=list)
    lm_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    tuned: dict[str, float] = dataclasses.field(default_factory=dict)
    chosen_by: str = ""
    layer_scores: dict[str, list[LayerScore]] = dataclasses.field(default_factory=dict)
    layer: int | None = None
    chosen_on: str = ""
    folds: dict[str, float] = dataclasses.field(default_factory=dict)
    scheme: int = 1
    settings: Settings = dataclasses.field(default_factory=dict)
    file: Path | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if next(iter(self.metrics), None) != self.main_metric:
            raise CheckpointError(
                f"result record: main metric '{self.main_metric}', expected the first of "
                f"{list(self.metrics)}"
            )

    @property
    def main(self) -> Score:
        """The score of the main metric."""
        return self.metrics[self.main_metric]

    @property
    def key(self) -> str:
        """The key by which this record's evaluation finds it."""
        if self.scheme > 1:
            return self.identity.key
        return former_key(self.identity, self.recipe)

    @property
    def protocol(self) -> str:
        """A digest of what two numbers must share, besides corpus and recipe name, to compare."""
        return self.identity.protocol

    @property
    def identity(self) -> Identity:
        """The identity of scheme 2, also of a record of scheme 1."""
        old = self.scheme == 1
        return Identity(
            fingerprint=self.upstream["fingerprint"],
            corpus=self.corpus["digest"],
            recipe=self.recipe_name,
            task=self.task,
            version=self.task_version,
            mode=self.mode,
            settings=earlier_identities.settings(self.task, self.recipe) if old else self.settings,
            limit=self.limit,
        )


def digest(value: object) -> str:
    """Return 16 hex digits of the SHA-256 of `value` as canonical JSON, with sorted keys."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def former_key(identity: Identity, recipe: Mapping[str, Json]) -> str:
    """Return the key in scheme 1, with the recipe of earlier_identities.recipe()."""
    parts = (identity.recipe, dict(recipe), identity.version, identity.limit)
    return digest([identity.fingerprint, identity.corpus, *parts])


def plain(value: object) -> object:
    """Return containers for strict JSON: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
