"""An estimate of what an evaluation would compute, and of the time and disk that it needs."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.find_record import find_record
from mt4ssl_bench.downstream.job import Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.suite import plan_suite
from mt4ssl_bench.downstream.task import LayerTask, Task
from mt4ssl_bench.downstream.training.readings import readings
from mt4ssl_bench.encoders.kind import check_trainable
from mt4ssl_bench.encoders.load import load_each
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.features.costs import MEASURED, Costs, Speeds, measure
from mt4ssl_bench.features.crops import FreshCrop
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.index import Header
from mt4ssl_bench.features.store import GIB, STRETCH, entries, header_of
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.suite import read_suite
from mt4ssl_bench.training.run_folder import checkpoint_bytes


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What passes of an upstream need: hours of audio, seconds of time, bytes to store.

    `stored` and `live` are the seconds that features cost in all readings, either way.
    """

    hours: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    stored: float = 0.0
    live: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One row, with its record if it exists, and the passes that no row before it needs."""

    upstream: str
    job: Job
    record: Result | None
    heads: int = 1
    folds: int = 1
    passes: Passes = Passes()

    @property
    def together(self) -> int:
        """The number of folds that train in the same updates: all of a pooled task."""
        return self.folds if issubclass(self.job.kind, Task) and self.job.kind.pooled else 1

    @property
    def about(self) -> str:
        """A text for people."""
        if self.record is None:
            if issubclass(self.job.kind, LayerTask):
                return "to do: scores of every layer, without training"
            config, count, folds = self.job.training, self.heads, self.folds
            if config.mode == "frozen":
                together = self.together
                turns = f", for {folds} folds in turn" if folds > together else ""
                return f"to do: {config.steps} updates of {count * together} heads at once{turns}"
            hours = config.steps * config.accumulate * config.tune.batch_seconds / 3600
            return (
                f"to do: {config.steps} updates of the model, {count * folds} times; "
                f"{hours:.3g} h of audio each"
            )
        score = self.record.metrics[self.record.main_metric]
        return f"has a record: {score.title} {score.value:.2f} {score.unit}".rstrip()


@dataclass
class Estimate:
    """The plan of an evaluation.

    Attributes:
        rows: Rows that would be computed, and those that have a record.
        failures: Rows that cannot be computed.
        missing: Rows of a suite whose corpus is not there.
        free: Bytes on the disk of the store.
        state: Most bytes of a row's checkpoints during training; removed at its end.
        models: Bytes of trained models to store.
        free_out: Bytes on the disk of the results.
    """

    rows: list[PlannedRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    free: int = 0
    state: int = 0
    models: int = 0
    free_out: int = 0

    @property
    def passes(self) -> Passes:
        """The sum over rows."""
        parts = [row.passes for row in self.rows]
        return Passes(
            hours=sum(part.hours for part in parts),
            seconds=sum(part.seconds for part in parts),
            bytes=sum(part.bytes for part in parts),
        )


def estimate(
    upstreams: Sequence[str],
    tasks: Sequence[str],
    corpus: str | Path,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    store: str | Path | None = None,
    limit: int | None = None,
) -> Estimate:
    """Return what evaluate() with the same arguments would do.

    Reads 20 s of audio per upstream and kind of features, and leaves no file.

    Raises:
        BenchError: For a wrong task, key or corpus, and if no upstream loads.
    """
    opened = Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    return estimate_jobs(upstreams, jobs, out=out, device=device, store=store)


def estimate_suite(
    upstreams: Sequence[str],
    suite: str,
    corpora: str | Path,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    device: str = "auto",
    store: str | Path | None = None,
    limit: int | None = None,
) -> Estimate:
    """Return what evaluate_suite() with the same arguments would do; see estimate()."""
    planned = plan_suite(read_suite(suite), Path(corpora), overrides, limit)
    made = estimate_jobs(upstreams, planned.jobs, out=out, device=device, store=store)
    made.failures[:0] = planned.failures
    made.missing = planned.missing
    return made


def estimate_jobs(
    upstreams: Sequence[str],
    jobs: Sequence[Job],
    *,
    out: str | Path,
    device: str = "auto",
    store: str | Path | None = None,
) -> Estimate:
    """Return what evaluate_jobs() with the same arguments would do; see estimate()."""
    out, where = Path(out), pick_device(device)
    features, made = Path(store or out / "store"), Estimate()

    def failed(name: str, error: BenchError) -> None:
        made.failures.append(f"{name}: {error}")

    for _, model in load_each(upstreams, device=where, failed=failed):
        needed = _NewPasses(model, features)
        for job in jobs:
            record = find_record(job, out, model)
            if record is None and job.config.mode == "finetune":
                try:
                    check_trainable(model)
                except BenchError as error:
                    failed(f"{model.name}, {job.recipe}", error)
                    continue
            frozen = record is None and job.config.mode == "frozen"
            try:
                heads = _heads(model, job)
            except BenchError as error:
                failed(f"{model.name}, {job.recipe}", error)
                continue
            passes = needed(job) if frozen else Passes()  # fine-tuning stores no features
            row = PlannedRow(
                upstream=model.name,
                job=job,
                record=record,
                heads=heads,
                folds=_folds(job) if record is None else 1,
                passes=passes,
            )
            made.rows.append(row)
            if record is None:
                _add_training(made, model, row)
    made.free = shutil.disk_usage(_existing(features)).free
    made.free_out = shutil.disk_usage(_existing(out)).free
    return made


class _NewPasses:
    """One model's passes that neither the store holds nor a job before needed."""

    def __init__(self, model: Upstream, store: Path) -> None:
        stored = entries(store) if store.is_dir() else []
        self.model = model
        self.speeds: dict[tuple[str, str], Speeds] = {}
        self.there = {_pass_key(entry.header) for entry in stored if entry.whole}

    def __call__(self, job: Job) -> Passes:
        audio, spent, disk, stored, live = 0.0, 0.0, 0, 0.0, 0.0
        for role in job.roles:
            work, cuts = job.forward_pass(self.model, role), job.cuts(role)
            info, precision = job.corpus.info, job.config.store.precision
            header = header_of(work, cuts, info.digest, job.split(role), precision, info.name)
            marks = (self.model.fingerprint, *getattr(self.model, "former", ()))
            if any(_pass_key(replace(header, fingerprint=mark)) in self.there for mark in marks):
                continue
            self.there.add(_pass_key(header))
            seconds, need = work.seconds(cuts), work.rows(cuts) * header.row_bytes
            often = readings(job, role, len(cuts))
            speeds = self._speeds(work, cuts, header)
            costs = Costs.of(speeds, seconds, often)
            stored, live = stored + costs.stored, live + costs.live
            fresh = isinstance(work.crops, FreshCrop)
            beyond = need > job.config.store.limit_gb * GIB * STRETCH
            if fresh or beyond or (need >= MEASURED and costs.live_is_cheaper):
                seconds, need = seconds * often, 0  # again in every epoch
            audio, spent, disk = audio + seconds, spent + seconds * speeds.live, disk + need
        return Passes(hours=audio / 3600, seconds=spent, bytes=disk, stored=stored, live=live)

    def _speeds(self, work: Pass, cuts: Sequence[Cut], header: Header) -> Speeds:
        """Return what a kind of features costs, measured once on the disk of temporary files."""
        key = header.kind, header.precision
        if key not in self.speeds:
            self.speeds[key] = measure(work, cuts, header, Path(tempfile.gettempdir()), cold=False)
        return self.speeds[key]


def _add_training(made: Estimate, model: Upstream, row: PlannedRow) -> None:
    """Add the disk for a row: checkpoints (two while one replaces another), and its model."""
    job = row.job
    if issubclass(job.kind, LayerTask):
        return
    seeds, trials, folds = len(job.training.seeds), row.heads, row.folds
    if job.config.mode == "finetune":
        weights = torch.empty(model.parameters, device="meta")
        kept = 4 * model.parameters * seeds * folds
        state = 2 * checkpoint_bytes([weights])
        # every rate's model of each fold until the end
        state += 4 * model.parameters * trials * folds if trials > 1 else 0
    else:
        task = job.folds()[0].task
        with torch.device("meta"):
            head = list(task.head(model.num_layers, model.dim).parameters())
        state = 2 * trials * row.together * checkpoint_bytes(head)
        # with folds, every rate's head of each; else the best of each single layer
        layers = len(job.training.single_layers(model.num_layers)) or 1
        few = layers * seeds
        kept = checkpoint_bytes(head) // 4 * (trials * folds if job.kind.folds else few)
    made.state, made.models = max(made.state, state), made.models + kept


def _heads(model: Upstream, job: Job) -> int:
    """Return the number of heads of a row; raises ConfigError for a layer that does not exist."""
    if issubclass(job.kind, LayerTask):
        return 0
    config = job.training
    layers = len(config.single_layers(model.num_layers)) or 1
    return layers * len(config.rates) * len(config.seeds)


def _folds(job: Job) -> int:
    return len(job.folds()) if job.kind.folds else 1


def _pass_key(header: Header) -> tuple[object, ...]:
    """Return what is equal for two passes if one serves for both."""
    return (
        header.fingerprint,
        header.digest,
        header.split,
        header.kind,
        header.precision,
        header.utterances,
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
