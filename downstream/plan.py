"""What an evaluation will do: a task recipe and a corpus, checked against each other before any
work.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mt4ssl_bench import results
from mt4ssl_bench.config import Gone, check_all_bounds, load, read_recipe, recipe_names, to_dict
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.downstream.config import CTCConfig, TaskConfig
from mt4ssl_bench.downstream.heads.beam_search import check_decoder
from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results import scheme1
from mt4ssl_bench.results.record import Identity, Result
from mt4ssl_bench.settings import flatten, keys_of, read_by

# a task's name alone means SUPERB's full recipe from here on, and the tiny one below
FULL_HOURS = 50.0
GONE: Gone = {
    "pronunciations": (
        "first",
        "is gone: SUPERB scores the first (all moved PER from 84.5 to 84.3 on speechocean762)",
    )
}
ROLES = ("train", "valid", "test")
FIELDS: Mapping[str, Callable[[Any], str]] = {
    "text": text_of,
    "phones": phones_of,
    "speaker": speaker_of,
}
NAMED = 3  # examples in a message
LOGGER = logging.getLogger(__name__)


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

    def identity(self, upstream: Upstream, *, training: bool = False) -> Identity:
        """Return what a record of this job on `upstream` is found by; `training`: whatever decodes
        the result.
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

    def former_key(self, identity: Identity, fingerprint: str) -> str | None:
        """Return the key of this job's record under scheme 1 and a fingerprint of then, None if it
        had none.
        """
        if not identity.settings.keys() <= flatten(scheme1.DEFAULTS).keys():
            return None  # a key that was not there then
        values, files = to_dict(self.config), self.config.files()
        if "decode.lm" not in identity.settings:
            values.pop("decode", None)
            files = {key: digest for key, digest in files.items() if not key.startswith("decode.")}
        recipe = scheme1.recipe(values, files)
        return results.former_key(replace(identity, fingerprint=fingerprint), recipe)

    def find(self, folder: Path, upstream: Upstream) -> Result | None:
        """Return this job's record on `upstream`, of this scheme or of scheme 1, or None.

        A record of scheme 1 whose identity did not say all that moves a score is named in the log
        and not used.
        """
        identity = self.identity(upstream)
        record = results.find(folder, identity.key)
        lacking = scheme1.lacking(to_dict(self.config))
        reasons = dict.fromkeys(former(upstream), lacking)
        for fingerprint in getattr(upstream, "insufficient", ()):
            reasons[fingerprint] = f"its fingerprint {fingerprint} does not tell models apart"
        for fingerprint, reason in reasons.items():
            key = self.former_key(identity, fingerprint)
            if record is not None or key is None:
                break
            if not reason:
                record = results.find(folder, key)
            for path in results.paths(folder, key) if reason else ():
                LOGGER.warning("%s: not used as a record of this row, %s", path, reason)
        return record

    def run_folder(self, out: Path, upstream: Upstream) -> Path:
        """Return where the trained model lies: a folder of scheme 1 where there is one."""
        identity = self.identity(upstream, training=True)
        keys = [self.former_key(identity, fingerprint) for fingerprint in former(upstream)]
        stems = [
            results.stem(self.config.task, upstream.name, key)
            for key in (identity.key, *keys)
            if key
        ]
        folders = [out / "runs" / stem for stem in stems]
        return next((folder for folder in folders if folder.is_dir()), folders[0])


def former(upstream: Upstream) -> list[str]:
    """Return the fingerprints that records of scheme 1 may have of `upstream`: the one it has now
    among them.
    """
    earlier: Sequence[str] = getattr(upstream, "former", ())
    return list(dict.fromkeys((upstream.fingerprint, *earlier)))


def plan(name: str, corpus: Corpus, overrides: Sequence[str] = (), limit: int | None = None) -> Job:
    """Return the checked job for a task or recipe name.

    Raises ConfigError or CorpusError when it cannot be run.
    """
    recipe = name
    if name in list(TASKS):
        train = corpus.info.splits.get("train")
        recipe = name if train and train.hours >= FULL_HOURS else f"{name}_tiny"
    config = load_config(_task_recipe(recipe), overrides)
    if isinstance(config, CTCConfig):
        check_decoder(config.decode)
    job = Job(
        Path(recipe).stem, config, corpus, limit
    )  # a recipe file is known by its name, wherever it lies
    _check_fields(job)
    return job


def load_config(recipe: str, overrides: Sequence[str] = ()) -> TaskConfig:
    """Return the checked config of a task recipe, of the class that its task names.

    Raises:
        ConfigError: For a wrong key, a value out of its bound, or a file that is not there.
    """
    task = str(read_recipe(recipe).get("task", ""))
    kind = TASKS.get(task).Config
    config = load(kind, recipe, overrides, gone=GONE, elsewhere=partial(_elsewhere, task))
    if config.task != task:
        raise ConfigError(f"task={config.task}: recipe {recipe} is of '{task}'; choose by --task")
    check_all_bounds(config)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise ConfigError(
            f"seeds={list(config.seeds)}: expected one or several different numbers from 0"
        )
    config.settings()  # its rates must be good, and its files there
    unread = {*read_by(config, "frozen"), *read_by(config, "finetune")} - config.settings().keys()
    idle = [one for one in overrides if one.partition("=")[0].strip() in unread]
    if idle:
        LOGGER.warning(
            "%s: no effect, given mode=%s and the other keys: %s",
            Path(recipe).stem,
            config.mode,
            ", ".join(idle),
        )
    return config


def _elsewhere(task: str, key: str) -> str:
    """Return which other tasks have a key, for a message about `task`, or ""."""
    others = [name for name in TASKS if key in keys_of(TASKS.get(name).Config())]
    return f"task '{task}' does not read it, only {' and '.join(others)}" if others else ""


def sample(cuts: Iterable[Any], limit: int | None) -> list[Any]:
    """Return `limit` cuts in a fixed pseudo-random choice, or all of them."""
    cuts = list(cuts)
    if limit is None or limit >= len(cuts):
        return cuts
    return random.Random(0).sample(cuts, limit)  # noqa: S311


def named(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _task_recipe(recipe: str) -> str:
    known = [name for name in recipe_names() if "task" in read_recipe(name)]
    if not recipe.endswith((".yaml", ".yml")) and recipe not in known:
        raise ConfigError(f"unknown task '{recipe}'; {hint(recipe, {*TASKS, *known})}")
    return recipe


def _check_fields(job: Job) -> None:
    """Raise CorpusError where an utterance of a split lacks what the task reads, or there is only
    one speaker.
    """
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
                f"corpus {corpus.root}: cannot serve task '{task}': {len(lacking)} of "
                f"{len(members)} utterances of split '{split}' have no {needs} ({named(lacking)}); "
                "give them one, or leave them out of the manifest"
            )
    train = corpus.info.splits[job.split("train")]
    if needs == "speaker" and train.speakers < 2:
        raise CorpusError(
            f"corpus {corpus.root}: task '{task}' needs two speakers; split '{job.split('train')}' "
            f"has one in its {train.utterances} utterances"
        )
