"""An estimate of what an evaluation would compute, and of the time and disk that it needs."""

import bisect
import itertools
import shutil
import time
from collections import deque
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
from mt4ssl_bench.downstream.task import LayerTask
from mt4ssl_bench.encoders.kind import check_trainable
from mt4ssl_bench.encoders.load import load_each
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.index import Header
from mt4ssl_bench.features.store import GIB, entries, header_of
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.training.run_folder import checkpoint_bytes

PROBE_SECONDS = 20.0  # audio on which the speed of a pass is measured


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One row, with its record if it exists."""

    upstream: str
    job: Job
    record: Result | None

    @property
    def about(self) -> str:
        """A text for people."""
        if self.record is None:
            if issubclass(self.job.kind, LayerTask):
                return "to do: scores of every layer, without training"
            config, count, folds = self.job.training, _heads(self.job), _folds(self.job)
            if config.mode == "frozen":
                turns = f", for {folds} folds in turn" if folds > 1 else ""
                return f"to do: {config.steps} updates of {count} heads at once{turns}"
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
        hours: Of audio to pass through upstreams.
        seconds: That this takes.
        bytes: Of features to store.
        free: Bytes on the disk of the store.
        state: Most bytes of a row's checkpoints during training; removed at its end.
        models: Bytes of trained models to store.
        free_out: Bytes on the disk of the results.
    """

    rows: list[PlannedRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    hours: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    free: int = 0
    state: int = 0
    models: int = 0
    free_out: int = 0


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

    Reads 20 s of audio per upstream and writes nothing.

    Raises:
        BenchError: For a wrong task, key or corpus, and if no upstream loads.
    """
    out, where, opened = Path(out), pick_device(device), Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    features, made = Path(store or out / "store"), Estimate()

    def failed(name: str, error: BenchError) -> None:
        made.failures.append(f"{name}: {error}")

    for _, model in load_each(upstreams, device=where, failed=failed):
        missing = []
        for job in jobs:
            record = find_record(job, out, model)
            if record is None and job.config.mode == "finetune":
                try:
                    check_trainable(model)
                except BenchError as error:
                    failed(f"{model.name}, {job.recipe}", error)
                    continue
            elif record is None:
                missing.append(job)  # fine-tuning stores no features
            if record is None:
                _add_training(made, model, job)
            made.rows.append(PlannedRow(upstream=model.name, job=job, record=record))
        _add_passes(made, model, missing, features)
    made.free = shutil.disk_usage(_existing(features)).free
    made.free_out = shutil.disk_usage(_existing(out)).free
    return made


def _add_passes(made: Estimate, model: Upstream, jobs: Sequence[Job], store: Path) -> None:
    """Add one model's passes that the store does not hold; tasks may share one."""
    stored = entries(store) if store.is_dir() else []
    there = {_pass_key(entry.header) for entry in stored if entry.whole}
    speed = 0.0
    for job in jobs:
        for role in job.roles:
            work, cuts = job.forward_pass(model, role), job.cuts(role)
            info, precision = job.corpus.info, job.config.store.precision
            header = header_of(work, cuts, info.digest, job.split(role), precision, info.name)
            marks = (model.fingerprint, *getattr(model, "former", ()))
            if any(_pass_key(replace(header, fingerprint=mark)) in there for mark in marks):
                continue
            there.add(_pass_key(header))
            speed = speed or _speed(model, cuts)
            seconds, need = work.seconds(cuts), work.rows(cuts) * header.row_bytes
            if need > job.config.store.limit_gb * GIB:  # computed on the fly, again in every epoch
                seconds, need = seconds * _times(job, role, len(cuts)), 0
            made.hours += seconds / 3600
            made.seconds += seconds / speed
            made.bytes += need


def _add_training(made: Estimate, model: Upstream, job: Job) -> None:
    """Add the disk for a row: checkpoints (two while one replaces another), and its model."""
    if issubclass(job.kind, LayerTask):
        return
    trials, folds = _heads(job), _folds(job)
    if job.config.mode == "finetune":
        weights = torch.empty(model.parameters, device="meta")
        kept = 4 * model.parameters * folds
        state = 2 * checkpoint_bytes([weights])
        state += kept * trials if trials > 1 else 0  # each rate's model until the end
    else:
        task = job.folds()[0].task
        with torch.device("meta"):
            head = list(task.head(model.num_layers, model.dim).parameters())
        state = 2 * trials * checkpoint_bytes(head)
        # with folds, every rate's head of each
        kept = checkpoint_bytes(head) // 4 * (trials * folds if job.kind.folds else 1)
    made.state, made.models = max(made.state, state), made.models + kept


def _heads(job: Job) -> int:
    return len(job.training.rates) * len(job.training.seeds)


def _folds(job: Job) -> int:
    return len(job.folds()) if job.kind.folds else 1


def _times(job: Job, role: str, utterances: int) -> float:
    """Return how often training reads a split."""
    if issubclass(job.kind, LayerTask):
        return 1.0
    config = job.training
    if role == "train":
        return config.steps * config.accumulate * config.batch / max(utterances, 1)
    return config.steps / config.validate_every if role == "valid" else 1.0


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


def _speed(model: Upstream, cuts: Sequence[Cut]) -> float:
    """Return the seconds of audio that the upstream processes per second, reading included."""
    seconds = list(itertools.accumulate(cut.duration for cut in cuts))
    count = bisect.bisect_left(seconds, PROBE_SECONDS) + 1
    work = Pass(model)
    for probe in (cuts[:1], cuts[:count]):  # the first warms up
        began = time.perf_counter()
        deque(work(probe), maxlen=0)
    return seconds[: len(probe)][-1] / (time.perf_counter() - began)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
