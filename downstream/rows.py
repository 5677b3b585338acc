"""Rows of an evaluation: found as records, computed here, or computed by another process."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mt4ssl_bench import results
from mt4ssl_bench.downstream.find_record import find_record, run_folder
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.encoders.load import load_each, load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, first_line, with_class
from mt4ssl_bench.files import locked
from mt4ssl_bench.results.record import Result

LOGGER = logging.getLogger(__name__)
FOREVER = -1.0  # filelock's


@dataclass
class Outcome:
    """The records of all rows that exist after an evaluation, its failures, and what is missing.

    `missing` are rows of a suite whose corpus is not there.
    """

    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
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
        name, folder = f"{model.name}, {job.recipe}", run_folder(job, out, model)
        return cls(source, job, name, job.key(model), folder)


class Rows:
    """The rows of one call. A row that another process computes is waited for at the end.

    Args:
        out: Folder of the records.
        device: Torch device of the upstreams.
        compute: Called for a row that has no record; writes one and returns it.
    """

    def __init__(self, out: Path, device: str, compute: Callable[[Row, Upstream], Result]) -> None:
        self.out, self.device, self.compute = out, device, compute
        self.outcome = Outcome()

    def __call__(self, upstreams: Sequence[str], jobs: Sequence[Job]) -> Outcome:
        """Compute every row that has no record; one that fails does not stop the others."""
        waiting: list[Row] = []
        for source, model in load_each(upstreams, device=self.device, failed=self.outcome.fail):
            for job in jobs:
                row = Row.of(model, source, job, self.out)
                if not self._fill(row, model):
                    LOGGER.info("%s: being computed by another process; next row", row.name)
                    waiting.append(row)
        for row in waiting:
            LOGGER.info("%s: waiting for the process that computes it", row.name)
            self._fill(row)
        return self.outcome

    def _fill(self, row: Row, model: Upstream | None = None) -> bool:
        """Add one row to the outcome: the record that exists, a new one, or a failure.

        Returns False where another process computes it. Without `model`, which is then loaded if
        needed, waits for that process instead; if it fails or dies, the row is computed here.
        """
        try:
            if self._reuse(row, model):
                return True
            with ExitStack() as held:
                try:
                    held.enter_context(locked(row.folder, patience=0 if model else FOREVER))
                except TimeoutError:
                    return False
                if not self._reuse(row, model):  # not computed by another process meanwhile
                    model = model or load_upstream(row.source, device=self.device)
                    self.outcome.results.append(self.compute(row, model))
        except Exception as error:  # noqa: BLE001 - a row may fail in any way
            self.outcome.fail(row.name, error)
        return True

    def _reuse(self, row: Row, model: Upstream | None) -> bool:
        record = find_record(row.job, self.out, model) if model else results.find(self.out, row.key)
        if record:
            LOGGER.info("%s: already evaluated, as %s", row.name, record.upstream["name"])
            self.outcome.reused += 1
            self.outcome.results.append(record)
        return record is not None
