"""The evaluation job: upstream x task recipe -> result record; what has a record already is not computed again."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from mt4ssl_bench import results
from mt4ssl_bench.config import load, read_recipe, recipe_names, to_dict
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.downstream.sweep import Split, Sweep, Trial, sample, speakers_of
from mt4ssl_bench.downstream.task import TASKS, Task, TaskConfig
from mt4ssl_bench.errors import BenchError, ConfigError, CorpusError
from mt4ssl_bench.features import Upstream, load_upstream, pick_device
from mt4ssl_bench.metrics import error_counts
from mt4ssl_bench.passes import Crops
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results import Hypothesis, Result
from mt4ssl_bench.store import FeatureStore

LOGGER = logging.getLogger(__name__)
FULL_HOURS = 50.0  # a task's name alone means SUPERB's full recipe from here on, and the tiny one below


@dataclass
class Outcome:
    """What evaluate() did: the records of all asked rows that exist now, and what failed."""

    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reused: int = 0


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

    def split(self, name: str) -> str:
        """Return which of the corpus's splits serves as "train", "valid" or "test"."""
        return self.corpus.split_for(name, speaker_task=self.kind.needs == "speaker")

    def cuts(self, name: str) -> list[Any]:
        """Return the cuts of a split, at most `limit` of them."""
        return sample(self.corpus.cuts(self.split(name)), self.limit)

    def key(self, upstream: Upstream) -> str:
        """Return what a record of this job on `upstream` is found by."""
        recipe = comparable(self.config)
        return results.key(
            upstream.fingerprint, self.corpus.info.digest, self.recipe, recipe, self.kind.version, self.limit
        )


def comparable(config: TaskConfig) -> dict[str, Any]:
    """Return the recipe without what cannot move a score: its description and the store's size."""
    values = to_dict(config)
    values.pop("about")
    values["store"].pop("limit_gb")
    return values


def evaluate(
    upstreams: Sequence[str],
    tasks: Sequence[str],
    corpus: str | Path,
    *,
    out: Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    store: Path | None = None,
    limit: int | None = None,
) -> Outcome:
    """Evaluate every upstream on every task, and write one record each into `out`.

    Names are checked before any work. A row that fails is reported in the outcome and the others go on.
    Raises BenchError for a wrong name, key or corpus.
    """
    where = pick_device(device)
    opened = Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    models = [load_upstream(name, device=where) for name in upstreams]
    outcome = Outcome()
    for model in models:
        for job in jobs:
            existing = results.find(out, job.key(model))
            if existing:
                LOGGER.info("%s, %s: already evaluated", model.name, job.recipe)
                outcome.results.append(existing)
                outcome.reused += 1
                continue
            try:
                outcome.results.append(
                    _run(model, job, out, FeatureStore(store or out / "store", job.config.store), where)
                )
            except (BenchError, RuntimeError, MemoryError) as error:
                LOGGER.debug("failed", exc_info=True)
                outcome.failures.append(f"{model.name}, {job.recipe}: {str(error).splitlines()[0]}")
                LOGGER.error("%s", outcome.failures[-1])  # noqa: TRY400 - the row's one line; the trace is at debug level
    return outcome


def plan(name: str, corpus: Corpus, overrides: Sequence[str] = (), limit: int | None = None) -> Job:
    """Return the checked job for a task or recipe name; raises ConfigError or CorpusError when it cannot be run."""
    recipe = name
    if name in list(TASKS):
        train = corpus.info.splits.get("train")
        recipe = name if train and train.hours >= FULL_HOURS else f"{name}_tiny"
    config = load(TaskConfig, _task_recipe(recipe), overrides)
    task = TASKS.get(config.task)
    if task.needs not in corpus.info.fields:
        raise CorpusError(
            f"corpus {corpus.root}: cannot serve task '{config.task}', which needs {task.needs} for every utterance; "
            f"it has {', '.join(corpus.info.fields) or 'audio only'}"
        )
    if not config.sweep or config.steps < 1 or config.batch < 1:
        raise ConfigError(f"recipe {recipe}: sweep needs a learning rate, steps and batch at least 1")
    job = Job(Path(recipe).stem, config, corpus, limit)  # a recipe file is known by its name, wherever it lies
    for split in ("train", "valid", "test"):
        corpus.cuts(job.split(split))
    if task.needs == "speaker" and corpus.info.splits[job.split("train")].speakers < 2:
        raise CorpusError(
            f"corpus {corpus.root}: task 'speaker' needs two speakers; split '{job.split('train')}' has one"
        )
    return job


def _task_recipe(recipe: str) -> str:
    known = [name for name in recipe_names() if "task" in read_recipe(name)]
    if not recipe.endswith((".yaml", ".yml")) and recipe not in known:
        raise ConfigError(f"unknown task '{recipe}'; {hint(recipe, [*TASKS, *known])}")
    return recipe


def _run(model: Upstream, job: Job, out: Path, store: FeatureStore, device: str) -> Result:
    config, clock = job.config, _Clock()
    task = job.kind(config)
    cuts = {name: job.cuts(name) for name in ("train", "valid", "test")}
    task.fit_units(cuts["train"])
    splits = {name: _features(model, job, store, name, members, device) for name, members in cuts.items()}
    clock.lap("features")
    sweep = Sweep(task, model.num_layers, model.dim, device=device)
    chosen = sweep.run(splits["train"], splits["valid"], f"{job.recipe} on {model.name}")
    clock.lap("train")
    references, hypotheses, members = sweep.decode(chosen.head, splits["test"])
    metrics = task.score(references, hypotheses, speakers_of(members))
    clock.lap("test")
    info, environment = job.corpus.info, results.environment()
    used = {name: job.split(name) for name in cuts}
    result = Result(
        task=task.name,
        task_version=task.version,
        upstream={
            "name": model.name,
            "fingerprint": model.fingerprint,
            "parameters": model.parameters,
            "num_layers": model.num_layers,
            "dim": model.dim,
            "stride": model.stride,
        },
        corpus={
            "name": info.name,
            "digest": info.digest,
            "languages": info.languages,
            "synthetic": info.synthetic,
            "splits": {
                name: {"utterances": info.splits[split].utterances, "hours": info.splits[split].hours}
                for name, split in used.items()
            },
        },
        main_metric=task.metric,
        metrics=metrics,
        recipe_name=job.recipe,
        recipe=comparable(config),
        sweep=[_trial(trial, config, chosen) for trial in sweep.trials],
        layer_weights=cast("Any", chosen.head).sum.weights.tolist(),
        seeds=[config.seed],
        limit=job.limit,
        mode="frozen",
        versions=environment["versions"],
        git=environment["git"],
        device=device,
        wall_seconds=clock.laps,
        counts={f"{name}_utterances": len(members) for name, members in cuts.items()},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = results.save(result, _hypotheses(task, references, hypotheses, members), out)
    main = metrics[task.metric]
    LOGGER.info(
        "%s, %s: %s %.2f [%.2f, %.2f] at lr %g (%.0f s) -> %s",
        model.name, job.recipe, task.metric.upper(), main.value, main.low, main.high, chosen.lr,
        sum(clock.laps.values()), path,
    )  # fmt: skip
    return result


def _features(model: Upstream, job: Job, store: FeatureStore, name: str, cuts: list[Any], device: str) -> Split:
    config, split, corpus = job.config, job.split(name), job.corpus.info
    if job.kind.pooled:
        training = name == "train"
        seconds = config.crop_seconds if training else config.test_crop_seconds
        crops = Crops(seconds=seconds, count=config.crops if training else 1, seed=config.seed)
        return Split(
            cuts, store.means(model, corpus.digest, split, cuts, crops, corpus=corpus.name), pooled=True, device=device
        )
    return Split(cuts, store.frames(model, corpus.digest, split, cuts, corpus=corpus.name), pooled=False, device=device)


def _trial(trial: Trial, config: TaskConfig, chosen: Trial) -> results.Trial:
    valid = None if trial.state is None else trial.best
    return {
        "lr": trial.lr,
        "seed": config.seed,
        "valid": valid,
        "steps": trial.step,
        "chosen": trial is chosen,
    }


def _hypotheses(task: Task, references: list[str], hypotheses: list[str], cuts: list[Any]) -> list[Hypothesis]:
    if task.pooled:
        counts = [(int(a != b), 0, 0, 1) for a, b in zip(references, hypotheses, strict=True)]
    else:
        counts = [tuple(row) for row in error_counts(references, hypotheses, by="words").tolist()]
    speakers: Sequence[str | None] = speakers_of(cuts) or [None for _ in cuts]
    return [
        {
            "id": cut.id,
            "speaker": speaker,
            "reference": reference,
            "hypothesis": hypothesis,
            "substitutions": s,
            "deletions": d,
            "insertions": i,
            "tokens": n,
        }
        for cut, speaker, reference, hypothesis, (s, d, i, n) in zip(
            cuts, speakers, references, hypotheses, counts, strict=True
        )
    ]


class _Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 2), now
