"""What an evaluation will do: a task recipe and a corpus, checked against each other before any work."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mt4ssl_bench import bounds, results
from mt4ssl_bench.config import load, read_recipe, recipe_names, to_dict
from mt4ssl_bench.corpus import Corpus, is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.downstream.task import TASKS, DecodeConfig, Task, TaskConfig, rates
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features import Upstream
from mt4ssl_bench.lexicon import named_lexicon
from mt4ssl_bench.registry import hint

FULL_HOURS = (
    50.0  # a task's name alone means SUPERB's full recipe from here on, and the tiny one below
)
ROLES = ("train", "valid", "test")
FIELDS: Mapping[str, Callable[[Any], str]] = {
    "text": text_of,
    "phones": phones_of,
    "speaker": speaker_of,
}
UNREAD = {
    "frozen": ("mode", "tune"),
    "finetune": ("head", "store", "batch", "crops", "patience"),
}  # by mode
NAMED = 3  # examples in a message
BOUNDS: bounds.Bounds = {
    bounds.AT_LEAST_1: "steps batch accumulate validate_every crops vocabulary head.projection head.hidden "
    "head.lstm_layers decode.beam tune.time_length tune.channel_length",
    bounds.POSITIVE: "tune.batch_seconds tune.head_lr decode.threshold",
    bounds.NOT_NEGATIVE: "clip_norm patience crop_seconds test_crop_seconds store.limit_gb tune.freeze_updates "
    "tune.final_scale tune.workers tune.cache_hours",
    bounds.PROBABILITY: "head.dropout tune.dropout tune.attention_dropout tune.activation_dropout tune.layer_drop",
    bounds.SHARE: "tune.time_prob tune.channel_prob",
    bounds.SHARES: "tune.phases",
}


@dataclass(frozen=True)
class Job:
    """One task recipe on one corpus, checked."""

    recipe: str
    config: TaskConfig
    corpus: Corpus
    limit: int | None

    @property
    def kind(self) -> type[Task]:
        """Return the task's class."""
        return TASKS.get(self.config.task)

    def split(self, role: str) -> str:
        """Return which of the corpus's splits serves as "train", "valid" or "test"."""
        return self.corpus.split_for(role, speaker_task=self.kind.needs == "speaker")

    def cuts(self, role: str) -> list[Any]:
        """Return the cuts of a split, at most `limit` of them."""
        return sample(self.corpus.cuts(self.split(role)), self.limit)

    def key(self, upstream: Upstream, *, training: bool = False) -> str:
        """Return what a record of this job on `upstream` is found by; `training`: whatever decodes what was trained."""
        config = replace(self.config, decode=DecodeConfig()) if training else self.config
        recipe = comparable(config)
        return results.key(
            upstream.fingerprint,
            self.corpus.info.digest,
            self.recipe,
            recipe,
            self.kind.version,
            self.limit,
        )


def comparable(config: TaskConfig) -> dict[str, Any]:
    """Return the recipe without what cannot move a score: its description, the store's size, what its mode ignores.

    Files stand by their content. Raises ConfigError for one that is not there.
    """
    values = to_dict(config)
    values["store"].pop("limit_gb")
    for name in ("about", *UNREAD[config.mode]):
        values.pop(name)
    if not config.lexicon:
        values.pop("lexicon")
    elif config.lexicon != "cmudict":
        values["lexicon"] = _content(config.lexicon, "lexicon")
    if config.pronunciations == "first":  # what every record had before there was a choice
        values.pop("pronunciations")
    if not config.decode.lm:
        values.pop("decode")
    else:
        for name in ("lm", "lexicon"):
            values["decode"][name] = _content(values["decode"][name], f"decode.{name}")
    return values


def _content(path: str, key: str) -> str:
    """Return a digest of a file, or "" for no file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else ""
    except OSError as error:
        raise ConfigError(f"{key}={path}: cannot be read ({error.strerror or error})") from None


def plan(name: str, corpus: Corpus, overrides: Sequence[str] = (), limit: int | None = None) -> Job:
    """Return the checked job for a task or recipe name; raises ConfigError or CorpusError when it cannot be run."""
    recipe = name
    if name in list(TASKS):
        train = corpus.info.splits.get("train")
        recipe = name if train and train.hours >= FULL_HOURS else f"{name}_tiny"
    config = load(TaskConfig, _task_recipe(recipe), overrides)
    bounds.check(config, BOUNDS)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(
            f"seeds={list(config.seeds)}: expected one or several different numbers from 0"
        )
    kinds = TASKS.get(config.task).unit_kinds
    if kinds and config.units not in kinds:
        raise ConfigError(
            f"units={config.units}: task '{config.task}' predicts {' or '.join(kinds)}"
        )
    if config.lexicon and "phonemes" not in kinds:
        raise ConfigError(
            f"lexicon={config.lexicon}: task '{config.task}' has no phones, only decode.lexicon"
        )
    if config.pronunciations == "all" and not config.lexicon:
        raise ConfigError(
            "pronunciations=all: needs lexicon=cmudict or a file, for task 'phoneme': a corpus holds one of each"
        )
    rates(config)
    comparable(config)  # its files must be there
    if config.lexicon:
        named_lexicon(config.lexicon)  # and readable
    job = Job(
        Path(recipe).stem, config, corpus, limit
    )  # a recipe file is known by its name, wherever it lies
    _check_fields(job)
    return job


def sample(cuts: Iterable[Any], limit: int | None) -> list[Any]:
    """Return `limit` cuts in a fixed pseudo-random choice, or all of them."""
    cuts = list(cuts)
    return cuts if limit is None or limit >= len(cuts) else random.Random(0).sample(cuts, limit)  # noqa: S311


def named(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _task_recipe(recipe: str) -> str:
    known = [name for name in recipe_names() if "task" in read_recipe(name)]
    if not recipe.endswith((".yaml", ".yml")) and recipe not in known:
        raise ConfigError(f"unknown task '{recipe}'; {hint(recipe, {*TASKS, *known})}")
    return recipe


def _check_fields(job: Job) -> None:
    """Raise CorpusError where an utterance of a split lacks what the task reads, or there is only one speaker."""
    needs, task, corpus = job.kind.reads(job.config), job.config.task, job.corpus
    for role in ROLES:
        split = job.split(role)
        cuts = corpus.cuts(split)
        if needs in corpus.info.fields:
            continue
        members = list(cuts)
        lacking = [
            cut.id
            for cut in members
            if not FIELDS[needs](cut).strip() and (needs == "speaker" or not is_silent(cut))
        ]
        if lacking:
            raise CorpusError(
                f"corpus {corpus.root}: cannot serve task '{task}': {len(lacking)} of {len(members)} utterances of "
                f"split '{split}' have no {needs} ({named(lacking)}); give them one, or leave them out of the manifest"
            )
    train = corpus.info.splits[job.split("train")]
    if needs == "speaker" and train.speakers < 2:
        raise CorpusError(
            f"corpus {corpus.root}: task '{task}' needs two speakers; split '{job.split('train')}' has one in its "
            f"{train.utterances} utterances"
        )
