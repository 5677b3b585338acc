"""Jobs: a task recipe and a corpus, checked against each other before any computation starts."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mt4ssl_bench.config import Gone, check_all_bounds, load, read_recipe, recipe_names
from mt4ssl_bench.data.corpus import Corpus, SplitInfo
from mt4ssl_bench.data.cut import Cut, field_of, is_silent
from mt4ssl_bench.downstream.config import TaskConfig
from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.record import Identity
from mt4ssl_bench.settings import keys_of, read_by

# a task's name means SUPERB's full recipe from here on, and its tiny part below
FULL_HOURS = 50.0
GONE: Gone = {
    "pronunciations": (
        "first",
        "is gone: SUPERB scores the first (all moved PER from 84.5 to 84.3 on speechocean762)",
    )
}
ROLES = ("train", "valid", "test")
SPOKEN = {"text", "phones"}  # fields that are empty where nobody speaks
NAMED = 3  # examples in a message
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """One training: the task with its units, and the cuts by role.

    `name` is the value of the task's fold label that is tested; "" without folds.
    """

    task: Task
    cuts: Mapping[str, list[Cut]]
    name: str = ""


@dataclass(frozen=True)
class Job:
    """One task recipe on one corpus, checked."""

    recipe: str
    config: TaskConfig
    corpus: Corpus
    limit: int | None

    @property
    def kind(self) -> type[Task]:
        """The class of the task."""
        return TASKS.get(self.config.task)

    def splits(self, role: str) -> list[str]:
        """Return the splits of the corpus that the cuts of "train", "valid" or "test" come from.

        With folds, each role has a part of all.
        """
        own = {name: self.kind.splits + name for name in ROLES}
        found = {name: own[name] if own[name] in self.corpus.info.splits else name for name in own}
        if self.kind.folds:
            return [split for split in found.values() if split in self.corpus.info.splits]
        return [found[role]]

    def split(self, role: str) -> str:
        """Return the name of splits(), for messages and stores."""
        return "+".join(self.splits(role))

    def size(self, role: str) -> SplitInfo:
        """Return the size of splits()."""
        parts = [self.corpus.info.splits[split] for split in self.splits(role)]
        return SplitInfo(
            utterances=sum(part.utterances for part in parts),
            hours=round(sum(part.hours for part in parts), 4),
            speakers=max(part.speakers for part in parts),
        )

    def all_cuts(self, role: str) -> Iterable[Cut]:
        """Yield the cuts of splits()."""
        for split in self.splits(role):
            yield from self.corpus.cuts(split)

    def cuts(self, role: str) -> list[Cut]:
        """Return the cuts of splits(), at most `limit` of them."""
        return sample(self.all_cuts(role), self.limit)

    def folds(self) -> list[Fold]:
        """Return the trainings: one, or one for each value of the task's fold label."""
        label = self.kind.folds
        if not label:
            return [self._fold({role: self.cuts(role) for role in ROLES})]
        cuts, task = self.cuts("test"), self.kind(self.config)
        folds = []
        for name in sorted({field_of(cut, label) for cut in cuts}):
            train, valid = task.hold_out([cut for cut in cuts if field_of(cut, label) != name])
            test = [cut for cut in cuts if field_of(cut, label) == name]
            folds.append(self._fold({"train": train, "valid": valid, "test": test}, name))
        return folds

    def _fold(self, cuts: Mapping[str, list[Cut]], name: str = "") -> Fold:
        task = self.kind(self.config)
        task.fit_units(cuts["train"])
        return Fold(task, cuts, name)

    def forward_pass(self, upstream: Upstream, role: str) -> Pass:
        """Return the pass of an upstream over the audio of a role."""
        return Pass(upstream, self.config.crops_of(role))

    def identity(self, upstream: Upstream, *, training: bool = False) -> Identity:
        """Return the identity of this job's record on `upstream`.

        Args:
            upstream: The model.
            training: Leave out how the result is decoded.
        """
        settings = self.config.identity()
        if training:
            settings = {k: v for k, v in settings.items() if not k.startswith("decode.")}
        return Identity(
            fingerprint=upstream.fingerprint,
            corpus=self.corpus.info.digest,
            recipe=self.recipe,
            task=self.config.task,
            version=self.kind.version,
            mode=self.config.mode,
            settings=settings,
            limit=self.limit,
        )

    def key(self, upstream: Upstream, *, training: bool = False) -> str:
        """Return the key of identity()."""
        return self.identity(upstream, training=training).key


def plan(name: str, corpus: Corpus, overrides: Sequence[str] = (), limit: int | None = None) -> Job:
    """Return the checked job for a task or recipe name.

    Raises:
        ConfigError: For a wrong name or key.
        CorpusError: If the corpus cannot be used for the task.
    """
    recipe, train = name, corpus.info.splits.get("train")
    tiny = train is None or train.hours < FULL_HOURS
    if name in set(TASKS) and tiny and f"{name}_tiny" in recipe_names():
        recipe = f"{name}_tiny"
    config = load_config(recipe, overrides)
    TASKS.get(config.task)(config).check()
    # a recipe file is named by its name, wherever it is
    job = Job(Path(recipe).stem, config, corpus, limit)
    if job.kind.folds and config.mode == "finetune":
        raise ConfigError(
            f"{job.recipe}: task '{config.task}' has folds, which mode=finetune does not train; "
            "expected mode=frozen"
        )
    _check_fields(job)
    return job


def load_config(recipe: str, overrides: Sequence[str] = ()) -> TaskConfig:
    """Return the checked config of a task recipe, of the class that its task names.

    Raises:
        ConfigError: For a wrong key, a value out of its bound, or a file that is missing.
    """
    is_file = recipe.endswith((".yaml", ".yml"))
    if not is_file and recipe not in recipe_names():
        raise ConfigError(f"unknown task '{recipe}'; {hint(recipe, _task_names())}")
    task = str(read_recipe(recipe).get("task", ""))
    if not task:
        raise ConfigError(
            f"recipe {recipe}: no task's recipe, it has no key 'task'; expected one of "
            f"{', '.join(sorted(_task_names()))}"
        )
    kind = TASKS.get(task).Config
    config = load(kind, recipe, overrides, gone=GONE, elsewhere=partial(_elsewhere, task))
    if config.task != task:
        raise ConfigError(f"task={config.task}: recipe {recipe} is of '{task}'; choose by --task")
    check_all_bounds(config)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(
            f"seeds={list(config.seeds)}: expected one or several different numbers from 0"
        )
    settings = config.settings()  # raises for bad rates and missing files
    unread = {*read_by(config, "frozen"), *read_by(config, "finetune")} - settings.keys()
    if idle := [key for key in overrides if key.partition("=")[0].strip() in unread]:
        LOGGER.warning(
            "%s: no effect, given mode=%s and the other keys: %s",
            Path(recipe).stem,
            config.mode,
            ", ".join(idle),
        )
    return config


def _task_names() -> set[str]:
    return {*TASKS, *(name for name in recipe_names() if "task" in read_recipe(name))}


def _elsewhere(task: str, key: str) -> str:
    """Return which other tasks have a key, for a message about `task`, or ""."""
    others = [name for name, kind in TASKS.items() if key in keys_of(kind.Config())]
    return f"task '{task}' does not read it, only {' and '.join(others)}" if others else ""


def sample(cuts: Iterable[Cut], limit: int | None) -> list[Cut]:
    """Return `limit` cuts in a fixed pseudo-random choice, or all of them."""
    cuts = list(cuts)
    if limit is None or limit >= len(cuts):
        return cuts
    return random.Random(0).sample(cuts, limit)  # noqa: S311


def named(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _check_fields(job: Job) -> None:
    """Raise CorpusError where the corpus lacks what the task reads."""
    info, task = job.corpus.info, job.kind(job.config)
    where = f"corpus {job.corpus.root}: cannot be used for task '{job.config.task}'"
    there = sorted({*info.fields, *(f"list:{name}" for name in getattr(info, "lists", {}))})
    for field in task.fields(job.config):
        for role in ROLES if field not in there else ():
            cuts = [] if ":" in field else list(job.all_cuts(role))
            lacking = [
                cut.id
                for cut in cuts
                if not field_of(cut, field).strip() and not (field in SPOKEN and is_silent(cut))
            ]
            if len(lacking) == len(cuts):
                near = hint(field, there) if there else ""
                raise CorpusError(
                    f"{where}: it has no {field}; this corpus has: "
                    f"{', '.join(there) or 'audio only'}{f'; {near}' if near[:3] == 'did' else ''}"
                )
            if lacking:
                raise CorpusError(
                    f"{where}: {len(lacking)} of {len(cuts)} utterances of split "
                    f"'{job.split(role)}' have no {field} ({named(lacking)}); give them one, or "
                    "leave them out of the manifest"
                )
    if reason := task.unlearnable(job.all_cuts("train")):
        raise CorpusError(f"{where}: it {reason} of split '{job.split('train')}'")
