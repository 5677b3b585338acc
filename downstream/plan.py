"""Planning: task recipes by name, checked against the corpus before any computation starts."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mt4ssl_bench.config import Gone, check_all_bounds, load, read_recipe, recipe_names
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import SPOKEN, field_of, is_silent
from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.downstream.job import ROLES, Job, named
from mt4ssl_bench.downstream.layers.single_layers import check_layers
from mt4ssl_bench.downstream.task import TASKS, LayerTask, Task, task_named
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.settings import keys_of, read_by

GONE: Gone = {
    "pronunciations": (
        "first",
        "is gone: SUPERB scores the first (all moved PER from 84.5 to 84.3 on speechocean762)",
    )
}
LOGGER = logging.getLogger(__name__)


def plan(
    name: str,
    corpus: Corpus,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    *,
    exact: bool = False,
) -> Job:
    """Return the checked job for a task or recipe name.

    Args:
        name: Of a task, which means its full or its tiny recipe, or of a recipe.
        corpus: What it is evaluated on.
        overrides: Recipe keys that differ.
        limit: Most utterances per split.
        exact: Take the recipe called `name`, whatever the size of the corpus.

    Raises:
        ConfigError: For a wrong name or key.
        CorpusError: If the corpus cannot be used for the task.
    """
    recipe = name if exact else recipe_for(name, corpus)
    # a recipe file is named by its name, wherever it is
    job = Job(Path(recipe).stem, load_config(recipe, overrides), corpus, limit)
    job.kind(job.config).check()
    if job.config.mode not in job.kind.modes and issubclass(job.kind, Task):
        raise ConfigError(
            f"{job.recipe}: task '{job.config.task}' trains heads on frozen features only; "
            "expected mode=frozen"
        )
    if issubclass(job.kind, LayerTask) and job.config.mode == "finetune":
        raise ConfigError(
            f"{job.recipe}: task '{job.config.task}' trains nothing; expected mode=frozen"
        )
    if isinstance(job.config, TaskConfig):
        _check_layers(job.recipe, job.config)
    _check_fields(job)
    return job


def _check_layers(recipe: str, config: TaskConfig) -> None:
    layers = check_layers(config.layer, config.layers)
    if layers and config.mode == "finetune":
        raise ConfigError(
            f"{recipe}: layers={layers}: mode=finetune trains one head on the trained upstream; "
            "expected mode=frozen, or tune.layer for the hidden state that this head reads"
        )


def recipe_for(name: str, corpus: Corpus) -> str:
    """Return the recipe that a task's name means on this corpus; another name is a recipe's."""
    if name not in recipe_names():
        name = task_named(name)
    tiny = f"{name}_tiny"
    if name not in TASKS or tiny not in recipe_names():
        return name
    kind, splits = TASKS.get(name), corpus.info.splits
    roles = ROLES if kind.folds else ("train",)
    hours = sum(splits[role].hours for role in roles if role in splits)
    recipe = name if hours >= kind.full_hours else tiny
    LOGGER.info(
        "task %s: recipe %s for %.2f h of training audio; %s is taken from %g h on",
        *(name, recipe, hours, name, kind.full_hours),
    )
    return recipe


def load_config(recipe: str, overrides: Sequence[str] = ()) -> BaseConfig:
    """Return the checked config of a task recipe, of the class that its task names.

    Raises:
        ConfigError: For a wrong key, a value out of its bound, or a file that is missing.
    """
    if not recipe.endswith((".yaml", ".yml")) and recipe not in recipe_names():
        if recipe in TASKS:
            TASKS.get(recipe)  # raises if it cannot be used
            raise ConfigError(
                f"task '{recipe}': has no recipe; expected {recipe}.yaml in recipes/tasks or in a "
                "package of the entry points mt4ssl_bench.recipes, or the path of one"
            )
        raise ConfigError(f"unknown task '{recipe}'; {hint(recipe, _task_recipes())}")
    task = str(read_recipe(recipe).get("task", ""))
    if not task:
        raise ConfigError(
            f"recipe {recipe}: no task's recipe, it has no key 'task'; expected one of "
            f"{', '.join(_task_recipes())}"
        )
    kind = TASKS.get(task).Config
    config = load(kind, recipe, overrides, gone=GONE, elsewhere=partial(_elsewhere, task))
    if config.task != task:
        raise ConfigError(f"task={config.task}: recipe {recipe} is of '{task}'; choose by --task")
    check_all_bounds(config)
    if isinstance(config, TaskConfig):
        _check_rates_and_seeds(config)
    settings = config.settings()  # raises for missing files
    unread = {*read_by(config, "frozen"), *read_by(config, "finetune")} - settings.keys()
    if isinstance(config, TaskConfig) and config.lr is not None:
        unread.add("sweep")
    if idle := [key for key in overrides if key.partition("=")[0].strip() in unread]:
        LOGGER.warning(
            "%s: no effect, given mode=%s and the other keys: %s",
            Path(recipe).stem,
            config.mode,
            ", ".join(idle),
        )
    return config


def _check_rates_and_seeds(config: TaskConfig) -> None:
    rates, seeds = config.rates, config.seeds
    if not rates:
        raise ConfigError(
            "sweep=none: then lr must name the one learning rate, for example lr=1e-2"
        )
    if not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise ConfigError(f"sweep={list(rates)}: expected different learning rates above 0")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds={list(seeds)}: expected one or several different numbers from 0")


def _task_recipes() -> list[str]:
    return [name for name in recipe_names() if "task" in read_recipe(name)]


def _elsewhere(task: str, key: str) -> str:
    """Return which other tasks have a key, for a message about `task`, or ""."""
    others = [name for name, kind in TASKS.items() if key in keys_of(kind.Config())]
    *first, last = others or [""]
    names = f"{', '.join(first)} and {last}" if first else last
    return f"task '{task}' does not read it, only {names}" if others else ""


def _check_fields(job: Job) -> None:
    """Raise CorpusError where the corpus lacks what the task reads."""
    info, task = job.corpus.info, job.kind(job.config)
    where = f"corpus {job.corpus.root}: cannot be used for task '{job.config.task}'"
    there = sorted({*info.fields, *(f"list:{name}" for name in info.lists)})
    for field in task.fields(job.config):
        for role in job.roles if field not in there else ():
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
    for split in (split for role in job.roles for split in job.splits(role)):
        if split not in info.splits:
            raise CorpusError(f"{where}: no split '{split}'; {hint(split, info.splits)}")
    reason = task.unlearnable(job.all_cuts("train")) if isinstance(task, Task) else ""
    if reason:
        raise CorpusError(f"{where}: it {reason} of split '{job.split('train')}'")
