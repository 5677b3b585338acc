"""The evaluation job: upstream x task recipe -> result record; what has a record already is not computed again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.downstream.checks import check_references
from mt4ssl_bench.downstream.finetune import train_finetuned
from mt4ssl_bench.downstream.frozen import train_frozen
from mt4ssl_bench.downstream.plan import ROLES, Job, plan
from mt4ssl_bench.downstream.record import Clock, write_record
from mt4ssl_bench.errors import BenchError, first_line, with_class
from mt4ssl_bench.features import Upstream, load_each, pick_device
from mt4ssl_bench.results import Result
from mt4ssl_bench.store import FeatureStore

LOGGER = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What evaluate() did: the records of all asked rows that exist now, and what failed."""

    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reused: int = 0


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

    Tasks and corpus are checked before any work. A row that fails, or an upstream that cannot be loaded, is reported
    in the outcome and the others go on. Raises BenchError for a wrong task, key or corpus, and when no upstream loads.
    """
    out, where = Path(out), pick_device(device)
    opened = Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    outcome = Outcome()
    for name, model in load_each(upstreams, device=where, failed=partial(_report, outcome)):
        for job in jobs:
            _fill(
                outcome,
                model,
                name,
                job,
                out,
                FeatureStore(Path(store or out / "store"), job.config.store),
                where,
            )
    return outcome


def _fill(
    outcome: Outcome,
    model: Upstream,
    source: str,
    job: Job,
    out: Path,
    store: FeatureStore,
    device: str,
) -> None:
    """Add one row to the outcome: the record that exists, a new one, or a failure."""
    try:
        existing = job.find(out, model)
        if existing:
            LOGGER.info("%s, %s: already evaluated", model.name, job.recipe)
            outcome.reused += 1
        outcome.results.append(existing or _run(model, source, job, out, store, device))
    except Exception as error:  # noqa: BLE001 - whatever one row meets, the others go on
        _report(outcome, f"{model.name}, {job.recipe}", error)


def _report(outcome: Outcome, row: str, error: Exception) -> None:
    LOGGER.debug("failed", exc_info=error)
    plain = isinstance(error, BenchError | RuntimeError | OSError)
    outcome.failures.append(f"{row}: {first_line(error) if plain else with_class(error)}")
    LOGGER.error("%s", outcome.failures[-1])


def _run(
    model: Upstream, source: str, job: Job, out: Path, store: FeatureStore, device: str
) -> Result:
    clock, task = Clock(), job.kind(job.config)
    cuts = {role: job.cuts(role) for role in ROLES}
    task.fit_units(cuts["train"])
    counts = {f"{role}_utterances": len(members) for role, members in cuts.items()}
    counts |= check_references(job, task, cuts)
    folder = job.run_folder(out, model)
    if job.config.mode == "finetune":
        trained = train_finetuned(model, job, task, cuts, folder=folder, device=device, clock=clock)
    else:
        trained = train_frozen(
            model,
            job,
            task,
            cuts,
            folder=folder,
            source=source,
            store=store,
            device=device,
            clock=clock,
        )
    result, path = write_record(
        model, job, task, trained, counts=counts, device=device, clock=clock, out=out
    )
    main = result.metrics[task.metric]
    chosen = next(trial for trial in result.sweep if trial["chosen"])
    LOGGER.info(
        "%s, %s: %s %.2f [%.2f, %.2f] at lr %g (%.0f s) -> %s",
        model.name, job.recipe, task.metric.upper(), main.value, main.low, main.high, chosen["lr"],
        sum(clock.laps.values()), path,
    )  # fmt: skip
    return result
