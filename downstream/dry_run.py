"""What an evaluation would do and cost, without doing it: rows that are missing, audio to pass,
disk for features.
"""

import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.downstream.config import rates
from mt4ssl_bench.downstream.plan import ROLES, Job, plan
from mt4ssl_bench.downstream.training.frozen import pass_of
from mt4ssl_bench.encoders.kinds import check_trainable
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
    """One row: what would be trained, and its record where there is one."""

    upstream: str
    job: Job
    record: Result | None

    @property
    def about(self) -> str:
        """Return what would be done."""
        if self.record is None:
            config = self.job.config
            count = len(rates(config)) * len(config.seeds)
            if config.mode == "frozen":
                return f"to do: {config.steps} updates of {count} heads at once"
            heard = config.steps * config.accumulate * config.tune.batch_seconds / 3600
            return (
                f"to do: {config.steps} updates of the model, {count} times; "
                f"{heard:.3g} h of audio each"
            )
        score = self.record.metrics[self.record.main_metric]
        return f"has a record: {self.record.main_metric.upper()} {score.value:.2f} %"


@dataclass
class Estimate:
    """The plan of an evaluation.

    Attributes:
        rows, failures: what would be done, and what cannot be.
        hours, seconds: of audio to pass, and the time that this takes.
        bytes, free: of features to keep, and free on their disk.
        state: most bytes that a row's checkpoints take while it is trained; removed with its end.
        models, free_out: bytes of trained models to keep, and free on the disk of the results.
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

    Raises BenchError for a wrong task, key or corpus, and when no upstream loads.
    """
    out, where, opened = Path(out), pick_device(device), Corpus.open(corpus)
    jobs = [plan(name, opened, overrides, limit) for name in tasks]
    kept, found = Path(store or out / "store"), Estimate()

    def failed(name: str, error: BenchError) -> None:
        found.failures.append(f"{name}: {error}")

    for _, model in load_each(upstreams, device=where, failed=failed):
        missing = []
        for job in jobs:
            record = job.find(out, model)
            if record is None and job.config.mode == "finetune":
                try:
                    check_trainable(model)
                except BenchError as error:
                    failed(f"{model.name}, {job.recipe}", error)
                    continue
            elif record is None:
                missing.append(job)  # fine-tuning keeps no features
            if record is None:
                _add_training(found, model, job)
            found.rows.append(PlannedRow(upstream=model.name, job=job, record=record))
        _add_passes(found, model, missing, kept)
    found.free = shutil.disk_usage(_existing(kept)).free
    found.free_out = shutil.disk_usage(_existing(out)).free
    return found


def _add_passes(found: Estimate, model: Upstream, jobs: Sequence[Job], store: Path) -> None:
    """Add one model's passes that the store does not hold yet.

    Tasks that read the same frames share one.
    """
    there = {
        _pass_key(entry.header)
        for entry in (entries(store) if store.is_dir() else [])
        if entry.whole
    }
    speed = 0.0
    for job in jobs:
        for role in ROLES:
            work, cuts, corpus = pass_of(model, job, role), job.cuts(role), job.corpus.info
            header = header_of(
                work, cuts, corpus.digest, job.split(role), job.config.store.precision, corpus.name
            )
            marks = (model.fingerprint, *getattr(model, "former", ()))
            if any(_pass_key(replace(header, fingerprint=mark)) in there for mark in marks):
                continue
            there.add(_pass_key(header))
            speed = speed or _speed(model, cuts)
            heard, need = work.seconds(cuts), work.rows(cuts) * header.row_bytes
            if need > job.config.store.limit_gb * GIB:  # computed on the fly, again in every epoch
                heard, need = heard * _times(job, role, len(cuts)), 0
            found.hours += heard / 3600
            found.seconds += heard / speed
            found.bytes += need


def _add_training(found: Estimate, model: Upstream, job: Job) -> None:
    """Add what training a row keeps: checkpoints, twice while one replaces another, and its
    model.
    """
    trials = len(rates(job.config)) * len(job.config.seeds)
    if job.config.mode == "finetune":
        weights = torch.empty(model.parameters, device="meta")
        state, kept = checkpoint_bytes([weights]), 4 * model.parameters
        at_once = 2 * state + (
            kept * trials if trials > 1 else 0
        )  # each rate's model until the end
    else:
        task = job.kind(job.config)
        task.fit_units(job.cuts("train"))
        with torch.device("meta"):
            head = list(task.head(model.num_layers, model.dim).parameters())
        at_once, kept = 2 * trials * checkpoint_bytes(head), checkpoint_bytes(head) // 4
    found.state, found.models = max(found.state, at_once), found.models + kept


def _times(job: Job, role: str, utterances: int) -> float:
    """Return how often training reads a split."""
    config = job.config
    if role == "train":
        return config.steps * config.accumulate * config.batch / max(utterances, 1)
    return config.steps / config.validate_every if role == "valid" else 1.0


def _pass_key(header: Header) -> tuple[object, ...]:
    """What two passes share when one serves for both."""
    return (
        header.fingerprint,
        header.digest,
        header.split,
        header.kind,
        header.precision,
        header.utterances,
    )


def _speed(model: Upstream, cuts: Sequence[Any]) -> float:
    """Return the seconds of audio that the upstream takes in a second, reading included."""
    probe, heard, work = [], 0.0, Pass(model)
    for cut in cuts:
        probe.append(cut)
        heard += cut.duration
        if heard >= PROBE_SECONDS:
            break
    for members in (probe[:1], probe):  # the first warms up
        began = time.perf_counter()
        deque(work(members), maxlen=0)
    return heard / (time.perf_counter() - began)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
