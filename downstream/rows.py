"""Rows of an evaluation: found as records, computed here, or computed by another process."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mt4ssl_bench.downstream.find_record import find_record, run_folder
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.encoders.load import load_each
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, OutOfStepError, first_line, with_class
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.shared_work import PAUSE, Work
from mt4ssl_bench.training.distributed import World

LOGGER = logging.getLogger(__name__)


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
    in_step: bool  # see in_step()

    @classmethod
    def of(cls, model: Upstream, source: str, job: Job, out: Path, world: World) -> "Row":
        """Return the row of a loaded upstream, with its results in `out`."""
        name, folder = f"{model.name}, {job.recipe}", run_folder(job, out, model)
        return cls(source, job, name, job.key(model), folder, in_step(job, world))


def in_step(job: Job, world: World) -> bool:
    """Return whether all processes train each model of a job together.

    They do on GPUs whose number divides the batches of an update: sums in another order round
    otherwise. On CPUs a row is trained by one process, so that records are the same bits.
    """
    if job.config.mode != "finetune" or world.size == 1 or not world.device.startswith("cuda"):
        return False
    return job.training.accumulate % world.size == 0


@dataclass(frozen=True)
class Started:
    """A row that is being computed, until its work has ended."""

    row: Row
    work: Work[Result]


class Rows:
    """The rows of one call. One that other processes work on is turned to again at the end.

    Args:
        out: Folder of the records.
        world: The processes of this call, which share the rows.
        compute: The work of a row that has no record; ends with its record.
        report: Takes each row that was computed, here or elsewhere.
    """

    def __init__(
        self,
        out: Path,
        world: World,
        compute: Callable[[Row, Upstream], Work[Result]],
        report: Callable[[Row, Result], None],
    ) -> None:
        self.out, self.world, self.compute, self.report = out, world, compute, report
        # of rows that another command computes; that a world shares its rows is no news
        self.level = logging.INFO if world.size == 1 else logging.DEBUG
        self.outcome = Outcome()

    def __call__(self, upstreams: Sequence[str], jobs: Sequence[Job]) -> Outcome:
        """Compute every row that has no record; one that fails does not stop the others.

        Raises:
            OutOfStepError: If one process failed alone where others wait for it.
        """
        behind: list[Started] = []
        # those in step first: processes that compute other rows would be waited for
        jobs = sorted(jobs, key=lambda job: not in_step(job, self.world))
        meet = self._meet if jobs and in_step(jobs[0], self.world) else lambda _: None
        for source, model in load_each(
            upstreams, device=self.world.device, failed=self.outcome.fail
        ):
            meet(source)
            begun = [each for job in jobs for each in self._begin(source, model, job)]
            self._end(behind)  # two upstreams at most are in memory
            behind = begun
        meet("the end")
        self._end(behind)
        return self.outcome

    def _meet(self, place: str) -> None:
        """Check that all processes are at the same upstream or row.

        Raises:
            OutOfStepError: If one failed in what the others have done.
        """
        places = self.world.gather(place)
        if len(set(places)) > 1:
            raise OutOfStepError(
                f"the processes are at different places ({', '.join(places)}): an upstream or row "
                "failed in one of them only"
            )

    def _begin(self, source: str, model: Upstream, job: Job) -> list[Started]:
        """Find or compute a row; return it if other processes hold what is left of it."""
        row = Row.of(model, source, job, self.out, self.world)
        try:
            if record := self._find(row, model):
                LOGGER.info("%s: already evaluated, as %s", row.name, record.upstream["name"])
                self.outcome.reused += 1
                self.outcome.results.append(record)
                return []
            started = Started(row, self.compute(row, model))
        except OutOfStepError:
            raise
        except Exception as error:  # noqa: BLE001 - a row may fail in any way
            self.outcome.fail(row.name, error)
            return []
        if self._ended(started):
            return []
        LOGGER.log(self.level, "%s: being computed by another process; next row", row.name)
        return [started]

    def _find(self, row: Row, model: Upstream) -> Result | None:
        """Return a row's record; of one that is trained in step, if any process finds it."""
        record = find_record(row.job, self.out, model)
        if row.in_step:
            self._meet(row.name)
            known = any(self.world.gather(record is not None))
            while known and record is None:  # until the disk of this machine shows it
                time.sleep(PAUSE)
                record = find_record(row.job, self.out, model)
        return record

    def _end(self, rows: Sequence[Started]) -> None:
        """Compute rows to their end, with the processes that work on them."""
        for started in rows:
            name = started.row.name
            LOGGER.log(self.level, "%s: waiting for the process that computes it", name)
        while rows := [started for started in rows if not self._ended(started)]:
            time.sleep(PAUSE)

    def _ended(self, started: Started) -> bool:
        """Do what can be done of a row now; return whether it has its record, or has failed."""
        try:
            next(started.work)
        except StopIteration as end:
            self.outcome.results.append(end.value)
            self.report(started.row, end.value)
        except OutOfStepError:
            raise
        except Exception as error:  # noqa: BLE001 - a row may fail in any way
            self.outcome.fail(started.row.name, error)
        else:
            return False
        return True
