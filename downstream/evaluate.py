"""The evaluation job: upstream x task recipe -> result record.

What has a record already is not computed again.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.plan import ROLES, Job, plan
from mt4ssl_bench.downstream.reference_checks import check_references
from mt4ssl_bench.downstream.training.finetune import train_finetuned
from mt4ssl_bench.downstream.training.frozen import train_frozen
from mt4ssl_bench.downstream.write_record import Clock, write_record
from mt4ssl_bench.encoders.load import load_each, load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, first_line, with_class
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.files import alone
from mt4ssl_bench.results.record import Result

LOGGER = logging.getLogger(__name__)
FOREVER = -1.0  # filelock's


@dataclass
class Outcome:
    """What evaluate() did: the records of all asked rows that exist now, and what failed."""

    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    reused: int = 0

    def fail(self, row: str, error: Exception) -> None:
        """Report a row that failed, in one line."""
        LOGGER.debug("failed", exc_info=error)
        plain = isinstance(error, BenchError | RuntimeError | OSError)
        self.failures.append(f"{row}: {first_line(error) if plain else with_class(error)}")
        LOGGER.error("%s", self.failures[-1])


@dataclass(frozen=True)
class Row:
    """One upstream on one job; `source` is the name that the upstream is loaded by."""

    source: str
    job: Job
    name: str  # for people
    key: str  # of its record
    folder: Path  # of its training

    @classmethod
    def of(cls, model: Upstream, source: str, job: Job, out: Path) -> "Row":
        """Return the row of a loaded upstream, with its results in `out`."""
        folder = job.run_folder(out, model)
        return cls(source, job, f"{model.name}, {job.recipe}", job.key(model), folder)


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

    Tasks and corpus are checked before any work. A row that fails, or an upstream that cannot be
    loaded, is reported in the outcome and the others go on. Raises BenchError for a wrong task, key
    or corpus, and when no upstream loads.

    Several processes may work on one `out`: a row that another one makes is waited for at the end.
    """
    opened = Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    work = _Evaluation(Path(out), pick_device(device), store)
    work.start(upstreams, jobs)
    work.finish()
    return work.outcome


class _Evaluation:
    """The rows of one call, some of which other processes may be computing."""

    def __init__(self, out: Path, device: str, store: str | Path | None) -> None:
        self.out, self.device, self.store = out, device, Path(store or out / "store")
        self.outcome = Outcome()
        self.waiting: list[Row] = []

    def start(self, upstreams: Sequence[str], jobs: Sequence[Job]) -> None:
        """Add every row that no other process computes at this moment."""
        for source, model in load_each(upstreams, device=self.device, failed=self.outcome.fail):
            for job in jobs:
                row = Row.of(model, source, job, self.out)
                if not self._fill(row, model):
                    LOGGER.info(
                        "%s: another process is computing it; taking the next row", row.name
                    )
                    self.waiting.append(row)

    def finish(self) -> None:
        """Wait for the rows of other processes.

        One that fails or dies leaves its row to this one.
        """
        for row in self.waiting:
            LOGGER.info("%s: waiting for the process that computes it", row.name)
            self._fill(row)

    def _fill(self, row: Row, model: Upstream | None = None) -> bool:
        """Add one row to the outcome: the record that exists, a new one, or a failure.

        Returns False where another process computes it. Without `model`, which is then loaded if
        need be, waits for that process instead.
        """
        try:
            if self._reuse(row, model):
                return True
            with ExitStack() as held:
                try:
                    held.enter_context(alone(row.folder, patience=0 if model else FOREVER))
                except TimeoutError:
                    return False
                if not self._reuse(row, model):  # nobody else computed it meanwhile
                    model = model or load_upstream(row.source, device=self.device)
                    self.outcome.results.append(self._run(row, model))
        except Exception as error:  # noqa: BLE001 - whatever one row meets, the others go on
            self.outcome.fail(row.name, error)
        return True

    def _reuse(self, row: Row, model: Upstream | None) -> bool:
        existing = row.job.find(self.out, model) if model else results.find(self.out, row.key)
        if existing:
            LOGGER.info("%s: already evaluated, as %s", row.name, existing.upstream["name"])
            self.outcome.reused += 1
            self.outcome.results.append(existing)
        return existing is not None

    def _run(self, row: Row, model: Upstream) -> Result:
        clock, job, task = Clock(), row.job, row.job.kind(row.job.config)
        cuts = {role: job.cuts(role) for role in ROLES}
        task.fit_units(cuts["train"])
        counts = {f"{role}_utterances": len(members) for role, members in cuts.items()}
        counts |= check_references(job, task, cuts)
        if job.config.mode == "finetune":
            trained = train_finetuned(
                model, job, task, cuts, folder=row.folder, device=self.device, clock=clock
            )
        else:
            trained = train_frozen(
                model,
                job,
                task,
                cuts,
                folder=row.folder,
                source=row.source,
                store=FeatureStore(self.store, job.config.store),
                device=self.device,
                clock=clock,
            )
        result, path = write_record(
            model, job, task, trained, counts=counts, device=self.device, clock=clock, out=self.out
        )
        main = result.metrics[task.metric]
        chosen = next(trial for trial in result.sweep if trial["chosen"])
        LOGGER.info(
            "%s: %s %.2f [%.2f, %.2f] at lr %g (%.0f s) -> %s",
            row.name,
            task.metric.upper(),
            main.value,
            main.low,
            main.high,
            chosen["lr"],
            sum(clock.laps.values()),
            path,
        )
        return result
