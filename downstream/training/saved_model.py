"""A trained task on disk: model.pt holds recipe, units and head, and the upstream's weights where
they were trained.
"""

import dataclasses
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import from_dict, to_dict
from mt4ssl_bench.downstream.plan import Job
from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.encoders.finetuning import Trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.results import scheme1
from mt4ssl_bench.results.record import Trial
from mt4ssl_bench.settings import flatten, keys_of, nest
from mt4ssl_bench.training.run_folder import difference

LOGGER = logging.getLogger(__name__)
KIND = "task"


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a finished model came about; `meta` says by which recipe and data, `seconds` are of
    training.
    """

    meta: Mapping[str, Any]
    trials: list[Trial]
    counts: Mapping[str, int]
    seconds: float
    layer_norms: list[float] = dataclasses.field(default_factory=list)  # of the training split


def meta_of(upstream: Upstream, job: Job, task: Task) -> dict[str, Any]:
    """Return what a training depends on: two with equal meta train the same thing."""
    return {
        "kind": "finetuning" if job.config.mode == "finetune" else "heads",
        "task": task.state(),
        "recipe": nest(job.identity(upstream, training=True).settings),
        "version": task.version,
        "upstream": upstream.fingerprint,
        "corpus": job.corpus.info.digest,
        "limit": job.limit,
    }


def save_model(
    folder: Path,
    task: Task,
    upstream: Upstream,
    training: Training,
    head: nn.Module,
    *,
    encoder: nn.Module | None = None,
    source: str = "",
) -> None:
    """Write model.pt: with `encoder`, the trained upstream itself, else `source`, the name that it
    is loaded by.
    """
    about: dict[str, Any] = {
        "name": upstream.name,
        "fingerprint": upstream.fingerprint,
        "num_layers": upstream.num_layers,
        "dim": upstream.dim,
        "stride": upstream.stride,
        "source": str(Path(source).resolve()) if Path(source).exists() else source,
    }
    payload = {
        "kind": KIND,
        "task": task.name,
        "config": to_dict(task.config),
        "state": task.state(),
        "training": dataclasses.asdict(training),
    }
    trained: dict[str, Any] = {"head": head.state_dict()}
    if encoder is not None:
        assert isinstance(upstream, Trainable)
        trained |= {"encoder": encoder.state_dict(), "blueprint": upstream.blueprint}
    checkpoint.save({**payload, "upstream": about, **trained}, folder / "model.pt")


def read_finished(folder: Path, meta: Mapping[str, Any]) -> tuple[Training, dict[str, Any]] | None:
    """Return a model that save_model() wrote with this `meta`, or None; what differs is logged."""
    file = folder / "model.pt"
    if not file.exists():
        return None
    try:
        stored = read_model(folder)
        damaged = zipfile.ZipFile(file).testzip()  # torch verifies no checksum
        changed = damaged or difference(meta, stored["training"]["meta"])
        if not changed:
            return Training(**stored["training"]), stored
        LOGGER.warning(
            "%s: %s; trained again", file, f"damaged ({damaged})" if damaged else changed
        )
    except KeyError:  # of a training that did not end, or of a revision that did not say so
        return None
    except CheckpointError as error:
        LOGGER.warning("%s; trained again", error)
    return None


def read_model(folder: Path) -> dict[str, Any]:
    """Return what save_model() wrote; raises CheckpointError when there is no such file."""
    file = folder / "model.pt" if folder.is_dir() or not folder.suffix else folder
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: holds no model.pt; 'mt4ssl-bench evaluate' leaves one in <out>/runs for "
            "every row it computes"
        )
    stored = checkpoint.load(file)
    if stored.get("kind") != KIND:
        raise CheckpointError(f"{file}: not a trained task ({stored.get('kind', 'no kind')})")
    return stored


def read_task(stored: dict[str, Any]) -> Task:
    """Return the task of what read_model() returned, units included.

    Models of revision 16264c9 have every task's keys in their config; those of other tasks are
    passed over.
    """
    kind = TASKS.get(stored["task"])
    known, former = keys_of(kind.Config()), flatten(scheme1.DEFAULTS).keys()
    values = {k: v for k, v in flatten(stored["config"]).items() if k in known or k not in former}
    task = kind(from_dict(kind.Config, nest(values)))
    task.restore(stored["state"])
    return task
