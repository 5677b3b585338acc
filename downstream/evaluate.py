"""The evaluation job: upstreams x task recipes -> result records.

A row that has a record is not computed again.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.layers.score_task import score_task
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.reference_checks import check_fold, check_references
from mt4ssl_bench.downstream.rows import Outcome, Row, Rows
from mt4ssl_bench.downstream.suite import plan_suite
from mt4ssl_bench.downstream.task import LayerTask
from mt4ssl_bench.downstream.training.finetune_rates import train_finetuned
from mt4ssl_bench.downstream.training.frozen import train_frozen
from mt4ssl_bench.downstream.write_record import write_layers, write_record
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import read_suite
from mt4ssl_bench.training.distributed import World

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
        overrides: Recipe keys that differ now, as "steps=100".
        device: Torch device, or "auto".
        store: Folder of the features; default: `out`/store.
        limit: Most utterances per split; such a result is never ranked.

    Returns:
        The outcome, with a row that fails or an upstream that cannot be loaded in `failures`.

    Raises:
        BenchError: For a wrong task, key or corpus, before any computation starts; and when no
            upstream loads.
    """
    opened = Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    return evaluate_jobs(upstreams, jobs, out=out, device=device, store=store)


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
    planned = plan_suite(read_suite(suite), Path(corpora), overrides, limit)
    for line in planned.missing:
        LOGGER.info("%s: %s", suite, line)
    outcome = evaluate_jobs(upstreams, planned.jobs, out=out, device=device, store=store)
    outcome.failures[:0] = planned.failures
    outcome.missing = planned.missing
    return outcome


def evaluate_jobs(
    upstreams: Sequence[str],
    jobs: Sequence[Job],
    *,
    out: str | Path,
    device: str = "auto",
    store: str | Path | None = None,
) -> Outcome:
    """Evaluate every upstream on every job; see evaluate()."""
    out, where = Path(out), pick_device(device)
    compute = partial(_compute, device=where, store=Path(store or out / "store"), out=out)
    return Rows(out, where, compute)(upstreams, jobs)


def _compute(row: Row, model: Upstream, *, device: str, store: Path, out: Path) -> Result:
    """Train the heads of a row, or score its layers, and write its record."""
    clock, job = Clock(), row.job
    if issubclass(job.kind, LayerTask):
        scored = score_task(
            model, job, FeatureStore(store, job.config.store), device=device, clock=clock
        )
        result, path = write_layers(model, job, scored, device=device, clock=clock, out=out)
        _report(row, result, path, f"layer {scored.layer}, chosen on {scored.chosen_on}")
        return result
    folds, counts = job.folds(), Counter[str]()
    for fold in folds:
        counts.update({f"{role}_utterances": len(cuts) for role, cuts in fold.cuts.items()})
        counts.update(check_fold(job, fold) if fold.name else {})
        counts.update(check_references(job, fold.task, fold.cuts, fold.name))
        counts.update(fold.task.look_at(fold.cuts))
    if job.config.mode == "finetune":
        world = World(device=device)
        trained = train_finetuned(model, job, folds, folder=row.folder, world=world, clock=clock)
    else:
        trained = train_frozen(
            model,
            job,
            folds,
            source=row.source,
            folder=row.folder,
            store=FeatureStore(store, job.config.store),
            device=device,
            clock=clock,
        )
    result, path = write_record(
        model, job, folds[0].task, trained, counts=counts, device=device, clock=clock, out=out
    )
    chosen = next(trial for trial in result.sweep if trial["chosen"])
    layer = "" if result.layer is None else f"layer {result.layer}, best on {result.chosen_on}, "
    _report(row, result, path, f"{layer}lr {chosen['lr']:g}")
    return result


def _report(row: Row, result: Result, path: Path, chosen: str) -> None:
    main = result.main
    LOGGER.info(
        "%s: %s %.2f%s [%.2f, %.2f] at %s (%.0f s) -> %s",
        row.name,
        main.title,
        main.value,
        main.spread(),
        main.low,
        main.high,
        chosen,
        sum(result.wall_seconds.values()),
        path,
    )
