"""The jobs of a suite: planned on the corpora that are there, in the order of their cost."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mt4ssl_bench.console import quieted
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.job import ROLES, Job
from mt4ssl_bench.downstream.plan import load_config, plan
from mt4ssl_bench.downstream.task import TASKS, LayerTask, Task
from mt4ssl_bench.errors import BenchError, ConfigError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.suite import Suite, SuiteRow
from mt4ssl_bench.settings import Settings, keys_of

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlannedSuite:
    """The jobs of a suite, cheapest first; rows that cannot be planned; rows without a corpus."""

    jobs: list[Job]
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def plan_suite(
    suite: Suite, corpora: Path, overrides: Sequence[str] = (), limit: int | None = None
) -> PlannedSuite:
    """Return the checked jobs of the rows whose corpus lies in `corpora`.

    Args:
        suite: Rows of tasks, recipes and corpora.
        corpora: Folder of the corpora.
        overrides: Keys go to the tasks that have them.
        limit: Most utterances per split.

    Raises:
        BenchError: If a key is of no task, or no row can be planned.
    """
    planned = PlannedSuite(jobs=[])
    if not corpora.is_dir():
        raise ConfigError(f"--corpora {corpora}: no such folder; expected one of prepared corpora")
    opened: dict[str, Corpus] = {}
    _check_keys(suite, overrides)
    for row in with_keys(suite, overrides).rows:
        where = f"{row.task} on {row.corpus}"
        if row.task not in TASKS:
            planned.missing.append(f"{where}: no such task here; {hint(row.task, TASKS)}")
            continue
        folder = corpora / row.corpus
        if not (folder / "corpus.json").is_file():
            planned.missing.append(f"{where}: no corpus; {how_to_prepare(suite, row, folder)}")
            continue
        try:
            corpus = opened.setdefault(row.corpus, Corpus.open(folder))
            job = plan(row.recipe, corpus, row.keys, limit, exact=True)
            if job.config.task != row.task:
                raise ConfigError(f"recipe {row.recipe} is of task '{job.config.task}'")
        except BenchError as error:
            planned.failures.append(f"{where}: {error}")
            LOGGER.error("%s", planned.failures[-1])  # noqa: TRY400 - one line
            continue
        LOGGER.info("task %s on %s: recipe %s", row.task, row.corpus, job.recipe)
        planned.jobs.append(job)
    if not planned.jobs:
        first, *others = planned.failures + planned.missing
        for line in others:
            LOGGER.warning("%s", line)
        raise ConfigError(f"--corpora {corpora}: no row can run; {first}")
    planned.jobs.sort(key=cost)
    return planned


def how_to_prepare(suite: Suite, row: SuiteRow, folder: Path) -> str:
    """Return the command that makes a row's corpus."""
    from mt4ssl_bench.corpora.source import SOURCES

    arguments = suite.prepare.get(row.corpus, "")
    if not arguments and row.corpus in SOURCES:
        example = next(iter(SOURCES.get(row.corpus).examples), row.corpus)
        arguments = example.partition(" --out ")[0]
    if not arguments:
        return "'mt4ssl-bench prepare --help' lists the sources"
    return f"run: mt4ssl-bench prepare {arguments} --out {shlex.quote(str(folder))}"


def cost(job: Job) -> float:
    """Return hours of audio: of one pass of an upstream, and of what heads on frames read."""
    splits = {split for role in job.roles for split in job.splits(role)}
    one_pass = sum(job.corpus.info.splits[split].hours for split in splits)
    kind = job.kind
    if issubclass(kind, LayerTask) or (issubclass(kind, Task) and kind.pooled):
        return one_pass
    config, size = job.training, job.size(ROLES[0])
    utterances = config.steps * config.accumulate * config.batch
    read = utterances * size.hours / max(size.utterances, 1)
    return one_pass + read * len(config.rates) * len(config.seeds)


def settings_of(row: SuiteRow) -> Settings | None:
    """Return mode and settings of a row's recipe and keys; None if the recipe cannot be loaded."""
    with quieted():  # the evaluation warns of keys without effect
        try:
            config = load_config(row.recipe, row.keys)
        except BenchError:
            return None
        return {"mode": config.mode} | config.identity()


def with_keys(suite: Suite, overrides: Sequence[str]) -> Suite:
    """Return a suite whose rows have further keys, each where its task has the key."""
    rows = [
        replace(row, keys=(*row.keys, *(key for key in overrides if _name(key) in _keys(row))))
        for row in suite.rows
    ]
    return replace(suite, rows=rows)


def _check_keys(suite: Suite, overrides: Sequence[str]) -> None:
    known = {key for row in suite.rows for key in _keys(row)}
    for key in overrides:
        if _name(key) not in known:
            raise ConfigError(f"{key}: no task of the suite has it; {hint(_name(key), known)}")


def _keys(row: SuiteRow) -> set[str]:
    """Return the keys of a row's task; none of a task that is not installed."""
    return set(keys_of(TASKS.get(row.task).Config())) if row.task in TASKS else set()


def _name(key: str) -> str:
    return key.partition("=")[0].strip()
