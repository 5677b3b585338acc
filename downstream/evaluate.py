"""The evaluation job: upstreams x task recipes -> result records.

A row that has a record is not computed again. Under torchrun, all processes share the work.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.console import quieted
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Fold, Job, taken
from mt4ssl_bench.downstream.layers.score_task import score_task, share_passes
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.reference_checks import check_fold, check_references
from mt4ssl_bench.downstream.rows import Outcome, Row, Rows
from mt4ssl_bench.downstream.suite import plan_suite
from mt4ssl_bench.downstream.task import LayerTask
from mt4ssl_bench.downstream.training.finetune_rates import train_finetuned
from mt4ssl_bench.downstream.training.frozen import FrozenTraining
from mt4ssl_bench.downstream.write_record import write_layers, write_record
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.files import FOREVER, LOCK, holding
from mt4ssl_bench.results.provenance import environment
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import read_suite
from mt4ssl_bench.settings import Json
from mt4ssl_bench.shared_work import PAUSE, Unit, Work, share
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.training.launch import check_alike, check_shared, joined

LOGGER = logging.getLogger(__name__)


def evaluate(
    upstreams: Sequence[str],
    tasks: Sequence[str],
    corpus: str | Path,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    store: str | Path | None = None,
    limit: int | None = None,
) -> Outcome:
    """Evaluate every upstream on every task, and write one record each into `out`.

    Several processes may share one `out`: a row that another one computes is waited for at the end.

    Args:
        upstreams: Names, as load_upstream() takes them.
        tasks: Names of tasks or recipes, or recipe files.
        corpus: Folder of a corpus.
        out: Folder of the records.
        overrides: Keys of the recipe to change, as "steps=100".
        device: Torch device, or "auto".
        store: Folder of the features; default: `out`/store.
        limit: Most utterances per split; such a result is never ranked.

    Returns:
        The outcome, with a row that fails or an upstream that cannot be loaded in `failures`.

    Raises:
        BenchError: For a wrong task, key or corpus, before any computation starts; and when no
            upstream loads.
    """
    with joined(device) as world, quieted(unless=world.main):
        opened = Corpus.open(corpus)
        jobs = [plan(name, opened, overrides, limit) for name in tasks]
        return evaluate_jobs(upstreams, jobs, Path(out), store, world)


def evaluate_suite(
    upstreams: Sequence[str],
    suite: str,
    corpora: str | Path,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    store: str | Path | None = None,
    limit: int | None = None,
) -> Outcome:
    """Evaluate every upstream on the rows of a suite whose corpus is there, cheap ones first.

    Tasks on one corpus share a pass of the upstream if they apply the same effects to the audio.

    Args:
        upstreams: See evaluate().
        suite: Name of a suite, or the path of its file.
        corpora: Folder of the corpora, which have the names that the suite gives them.
        out: See evaluate(), as all others.
        overrides: Keys go to the tasks that have them.
        device: Torch device.
        store: Folder of the features.
        limit: Most utterances per split.

    Raises:
        BenchError: For a wrong suite or key, if no corpus is there, and when no upstream loads.
    """
    with joined(device) as world, quieted(unless=world.main):
        planned = plan_suite(read_suite(suite), Path(corpora), overrides, limit)
        for line in planned.missing:
            LOGGER.info("%s: %s", suite, line)
        outcome = evaluate_jobs(upstreams, planned.jobs, Path(out), store, world)
    if world.main:
        outcome.failures[:0] = planned.failures
    outcome.missing = planned.missing
    return outcome


def evaluate_jobs(
    upstreams: Sequence[str],
    jobs: Sequence[Job],
    out: Path,
    store: str | Path | None,
    world: World,
) -> Outcome:
    """Evaluate every upstream on every job, with the other processes of a world; see evaluate()."""
    rows = [[job.recipe, job.corpus.info.digest, job.config.identity(), job.limit] for job in jobs]
    made_with = environment()
    facts: dict[str, Json] = {"upstreams": [*upstreams], "rows": rows, "git": made_with["git"]}
    check_alike({**facts, "versions": made_with["versions"]}, world)
    check_shared(out, world)
    compute = partial(_compute, store=Path(store or out / "store"), out=out, world=world)
    outcome = Rows(out, world, compute, partial(_report, out))(upstreams, jobs)
    world.barrier()  # a process that ends with an error code ends the others
    if not world.main:
        outcome.failures.clear()  # every process met them; the main one reports
    return outcome


def _compute(row: Row, model: Upstream, *, store: Path, out: Path, world: World) -> Work[Result]:
    """Train the heads of a row, or score its layers, and write its record.

    The processes of a world share passes and heads; one of them writes the record.
    """
    job, clock = row.job, Clock()
    features = FeatureStore(store, job.config.store, world)
    if issubclass(job.kind, LayerTask):
        yield from share_passes(model, job, features)
        write = partial(_score_layers, model, job, features, device=world.device, clock=clock)
    elif row.in_step:
        _finetune_in_step(row, model, world=world, clock=clock, out=out)
        write = partial(_wait_for, row)
    elif job.config.mode == "finetune":
        alone = World(device=world.device)
        write = partial(_finetune, row, model, world=alone, clock=clock)
    else:
        folds, counts = _folds(job)
        training = FrozenTraining(
            model,
            job,
            folds,
            source=row.source,
            folder=row.folder,
            store=features,
            device=world.device,
            clock=clock,
        )
        yield from training.train()
        write = partial(_decode, model, training, counts=counts, device=world.device, clock=clock)

    done = partial(_has_record, row, out)
    yield from share([Unit(row.folder / LOCK, done, partial(write, out=out))])
    record = results.find(out, row.key)
    assert record is not None
    return record


def _folds(job: Job) -> tuple[list[Fold], Counter[str]]:
    """Return the trainings of a job, checked, and the counts of their utterances."""
    folds, counts = list[Fold](), Counter[str]()
    for fold in job.folds():
        counts.update(check_fold(job, fold) if fold.name else {})
        counts.update(check_references(job, fold.task, fold.cuts, fold.name))
        cuts, found = taken(fold.task, fold.cuts)
        counts.update(found)
        folds.append(replace(fold, cuts=cuts))
    return folds, counts


def _score_layers(
    model: Upstream, job: Job, store: FeatureStore, *, device: str, clock: Clock, out: Path
) -> None:
    scored = score_task(model, job, store, device=device, clock=clock)
    write_layers(model, job, scored, device=device, clock=clock, out=out)


def _has_record(row: Row, out: Path) -> bool:
    return bool(results.paths(out, row.key))


def _wait_for(row: Row, out: Path) -> None:
    """Wait until the disk of this machine shows the record."""
    while not _has_record(row, out):
        time.sleep(PAUSE)


def _finetune_in_step(row: Row, model: Upstream, *, world: World, clock: Clock, out: Path) -> None:
    """Fine-tune a row with all processes, while the main one keeps other commands out of it."""
    with holding(row.folder / LOCK, FOREVER) if world.main else nullcontext():
        if not world.gather(_has_record(row, out))[0]:
            _finetune(row, model, world=world, clock=clock, out=out)


def _finetune(row: Row, model: Upstream, *, world: World, clock: Clock, out: Path) -> None:
    job = row.job
    folds, counts = world.agree(lambda: _folds(job))
    tuned = train_finetuned(model, job, folds, folder=row.folder, world=world)
    clock.lap("train", tuned.seconds)

    def write() -> None:
        trained, task, device = tuned.decode(), folds[0].task, world.device
        write_record(model, job, task, trained, counts=counts, device=device, clock=clock, out=out)

    world.agree(write if world.main else lambda: None)


def _decode(
    model: Upstream,
    training: FrozenTraining,
    *,
    counts: Counter[str],
    device: str,
    clock: Clock,
    out: Path,
) -> None:
    trained, job, task = training.result(), training.job, training.folds[0].task
    write_record(model, job, task, trained, counts=counts, device=device, clock=clock, out=out)


def _report(out: Path, row: Row, result: Result) -> None:
    """Log the result of a row, whichever process has computed it."""
    main, rates = result.main, [trial["lr"] for trial in result.sweep if trial["chosen"]]
    on = f"{'best' if rates else 'chosen'} on {result.chosen_on}"
    layer = [] if result.layer is None else [f"layer {result.layer}", on]
    LOGGER.info(
        "%s: %s %.2f%s [%.2f, %.2f] at %s (%.0f s) -> %s",
        row.name,
        main.title,
        main.value,
        main.spread(),
        main.low,
        main.high,
        ", ".join([*layer, *(f"lr {rate:g}" for rate in rates[:1])]),
        sum(result.wall_seconds.values()),
        results.record_path(result, out),
    )
