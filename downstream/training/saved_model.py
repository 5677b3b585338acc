"""A trained task on disk: model.pt.

It holds recipe, units and head, and the upstream's weights if they were trained.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from torch import Tensor, nn

from mt4ssl_bench import checkpoint
from mt4ssl_bench.config import from_dict, to_dict
from mt4ssl_bench.downstream.job import Fold, Job
from mt4ssl_bench.downstream.layers.best_heads import best_of_layers
from mt4ssl_bench.downstream.task import TASKS, Task
from mt4ssl_bench.downstream.training.choose_rate import chosen
from mt4ssl_bench.downstream.training.head_run import HeadRun, Looks
from mt4ssl_bench.encoders.finetuning import Blueprint, Trainable
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.results import earlier_identities
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.results.record_parts import Trial
from mt4ssl_bench.settings import Json, flatten, keys_of, nest
from mt4ssl_bench.training.run_folder import difference

LOGGER = logging.getLogger(__name__)
KIND = "task"


Meta = dict[str, Json]


class About(TypedDict):
    """The upstream of a trained task; `source` is the name that it is loaded by."""

    name: str
    fingerprint: str
    num_layers: int
    dim: int
    stride: int
    source: str


class Stored(TypedDict):
    """The content of model.pt."""

    kind: str
    task: str
    config: dict[str, Json]
    state: dict[str, Json]  # of the task
    training: "StoredTraining"
    upstream: About
    head: dict[str, Tensor]
    encoder: NotRequired[dict[str, Tensor]]
    blueprint: NotRequired[Blueprint]


class StoredTraining(TypedDict):
    """The fields of Training."""

    meta: Meta
    trials: list[Trial]
    counts: dict[str, int]
    seconds: float
    layer_norms: NotRequired[list[float]]
    looks: NotRequired[list[Looks]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a finished model was trained: `meta` holds recipe and data, `seconds` are of training.

    `looks` are those of each trial; none in old files.
    """

    meta: Meta
    trials: list[Trial]
    counts: dict[str, int]
    seconds: float
    layer_norms: list[float] = dataclasses.field(default_factory=list)  # of the training split
    looks: list[Looks] = dataclasses.field(default_factory=list)


def meta_of(upstream: Upstream, job: Job, fold: Fold) -> Meta:
    """Return what a training depends on: two with equal meta train the same thing."""
    meta: Meta = {
        "kind": "finetuning" if job.config.mode == "finetune" else "heads",
        "task": fold.task.state(),
        "recipe": nest(job.identity(upstream, training=True).settings),
        "version": fold.task.version,
        "upstream": upstream.fingerprint,
        "corpus": job.corpus.info.digest,
        "limit": job.limit,
    }
    return meta | ({"fold": fold.name} if fold.name else {})


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
    """Write model.pt.

    Args:
        folder: Gets the file.
        task: With its units.
        upstream: That the head was trained on.
        training: How.
        head: With its trained weights.
        encoder: The trained upstream, if it was trained, too.
        source: Else the name that the upstream is loaded by.
    """
    about: About = {
        "name": upstream.name,
        "fingerprint": upstream.fingerprint,
        "num_layers": upstream.num_layers,
        "dim": upstream.dim,
        "stride": upstream.stride,
        "source": str(Path(source).resolve()) if Path(source).exists() else source,
    }
    payload: dict[str, object] = {
        "kind": KIND,
        "task": task.name,
        "config": to_dict(task.config),
        "state": task.state(),
        "training": dataclasses.asdict(training),
    }
    trained: dict[str, object] = {"head": head.state_dict()}
    if encoder is not None:
        assert isinstance(upstream, Trainable)
        trained |= {"encoder": encoder.state_dict(), "blueprint": upstream.blueprint}
    checkpoint.save({**payload, "upstream": about, **trained}, folder / "model.pt")


def heads_to_store(runs: Sequence[HeadRun], training: Training, metric: Metric | None) -> nn.Module:
    """Return what model.pt holds of a sweep: the best head, or several by their numbers.

    Several seeds have a head each, and so have single layers. Without a metric, for folds, it is
    every head that has a score: which of them is used depends on the other folds.
    """
    trials = training.trials
    if metric is None:
        kept = [n for n, trial in enumerate(trials) if trial["valid"] is not None]
    else:
        kept = best_of_layers(trials, metric)
        if len(kept) == 1:
            return runs[kept[0]].head
    return nn.ModuleDict({str(n): runs[n].head for n in kept})


def chosen_head(stored: Stored) -> dict[str, Tensor]:
    """Return the weights of the chosen head, of several seeds the first one's."""
    trials = stored["training"]["trials"] if "training" in stored else []  # none in old files
    layers = {trial.get("layer") for trial in trials if trial["valid"] is not None}
    several = len(layers) > 1 or len(chosen(trials)) > 1
    if not several or "encoder" in stored:
        return stored["head"]
    start = f"{chosen(trials)[0]}."
    head = stored["head"].items()
    return {name.removeprefix(start): x for name, x in head if name.startswith(start)}


def copy_model(source: Path, folder: Path, training: Training) -> None:
    """Write the model of the folder `source` into another one, trained as `training` describes."""
    stored = {**read_model(source), "training": dataclasses.asdict(training)}
    checkpoint.save(stored, folder / "model.pt")


def read_finished(folder: Path, meta: Meta) -> tuple[Training, Stored] | None:
    """Return a model that save_model() wrote with this `meta`, or None; a difference is logged."""
    file = folder / "model.pt"
    if not file.exists():
        return None
    try:
        stored = read_model(folder)
        changed = difference(meta, stored["training"]["meta"])
        if not changed:
            return Training(**stored["training"]), stored
        LOGGER.warning("%s: %s; trained again", file, changed)
    except KeyError:  # of an unfinished training, or of a revision that did not store the key
        return None
    except CheckpointError as error:
        LOGGER.warning("%s; trained again", error)
    return None


def read_model(folder: Path) -> Stored:
    """Return what save_model() wrote.

    Raises:
        CheckpointError: If there is no such file.
    """
    file = folder / "model.pt" if folder.is_dir() or not folder.suffix else folder
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: holds no model.pt; 'mt4ssl-bench evaluate' writes one into <out>/runs for "
            "every row that it computes"
        )
    stored = checkpoint.load(file)
    if stored.get("kind") != KIND:
        raise CheckpointError(f"{file}: not a trained task ({stored.get('kind', 'no kind')})")
    return cast("Stored", stored)


def read_task(stored: Stored) -> Task:
    """Return the task of what read_model() returned, units included.

    Models of revision 16264c9 have every task's keys in their config; those of other tasks are
    ignored.
    """
    kind = TASKS.get(stored["task"])
    assert issubclass(kind, Task)  # others train no head
    known, former = keys_of(kind.Config()), flatten(earlier_identities.DEFAULTS).keys()
    values = {k: v for k, v in flatten(stored["config"]).items() if k in known or k not in former}
    task = kind(from_dict(kind.Config, nest(values)))
    task.restore(stored["state"])
    return task
