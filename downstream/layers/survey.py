"""Which layer to cluster: ABX, phone purity and PNMI of every layer of an upstream.

Shapes: L layers, T frames, D dimension, V clusters, P phones.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mt4ssl_bench.clustering.kmeans import fit_centres
from mt4ssl_bench.clustering.purity import at_frames, purity
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut, turns_of
from mt4ssl_bench.data.frame_grid import STRIDE
from mt4ssl_bench.downstream.job import ROLES, Job
from mt4ssl_bench.downstream.plan import plan
from mt4ssl_bench.downstream.task import LayerTask
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.features.units import nearest_centre
from mt4ssl_bench.registry import hint
from mt4ssl_bench.results.grid import Entry
from mt4ssl_bench.results.metrics import Score

BASE_HOURS = 50.0  # of training audio, from which the Base recipe is proposed
LOGGER = logging.getLogger(__name__)
PHONES = "turns:phones"
MAX_FRAMES = 50_000  # that are clustered


@dataclass(frozen=True)
class Survey:
    """The scores of every layer.

    Attributes:
        headings: Of the columns.
        rows: Cells of each layer.
        best: The best layer.
        reason: By which measure, and on which data.
        command: The `kmeans` command for it; "" where it could not make labels.
    """

    headings: list[str]
    rows: list[list[Entry]]
    best: int
    reason: str
    command: str


def survey(
    upstream: str,
    corpus: str | Path,
    *,
    overrides: Sequence[str] = (),
    split: str = "",
    clusters: int = 100,
    store: Path,
    device: str = "cpu",
) -> Survey:
    """Return the scores of every layer of an upstream.

    Args:
        upstream: Name, as load_upstream() takes it.
        corpus: Folder of a corpus with time-aligned phones, or of utterances of one word.
        overrides: Keys of the ABX task.
        split: "train", "valid" or "test". Default: "valid", or "test" without one.
        clusters: Of each layer's k-means.
        store: Folder of the features.
        device: Torch device.

    Raises:
        BenchError: If corpus, split, key or upstream cannot be used.
    """
    opened = Corpus.open(corpus)
    role = split or ("valid" if "valid" in opened.info.splits else "test")
    if role not in ROLES:
        raise ConfigError(f"--split {role}: {hint(role, ROLES)}")
    aligned = PHONES in opened.info.fields
    job = plan("abx" if aligned else "abx_word", opened, overrides)
    task = job.task()
    assert isinstance(task, LayerTask)
    model = load_upstream(upstream, device=device)
    cuts = job.cuts(role)
    features = FeatureStore(store, job.config.store).features(
        job.forward_pass(model, role),
        opened.info.digest,
        job.split(role),
        cuts,
        corpus=opened.info.name,
    )
    answers = task.score(cuts, features, model.stride, device).answers
    scores = [[metric.score(each) for metric in task.all_metrics] for each in answers]
    where = f"split '{job.split(role)}' of {opened.info.name} ({len(cuts)} utterances)"
    clustering = _Clustering(cuts, features, clusters, model.stride) if aligned else None
    headings, rows, best, reason = _compare(scores, clustering, features.layers, where)
    if model.stride == STRIDE:
        return Survey(headings, rows, best, reason, _command(job, upstream, best, clusters))
    reason += (
        f"; no kmeans command: {model.name} has a frame every {model.stride} samples, and labels "
        f"need one every {STRIDE}"
    )
    return Survey(headings, rows, best, reason, "")


def _compare(
    scores: list[list[Score]], clustering: "_Clustering | None", layers: int, where: str
) -> tuple[list[str], list[list[Entry]], int, str]:
    """Return headings, rows, best layer and reason; see Survey."""
    headings = [f"ABX {score.title} % ↓" for score in scores[0]]
    rows = [
        [Entry(f"{score.value:.2f}", f"[{score.low:.2f}, {score.high:.2f}]") for score in each]
        for each in scores
    ]
    by, values = headings[-1], [-each[-1].value for each in scores]
    if clustering:
        measures = [clustering.measure(layer) for layer in range(layers)]
        headings += ["phone purity ↑", "PNMI ↑"]
        for row, measure in zip(rows, measures, strict=True):
            row += [Entry(f"{measure[key]:.3f}") for key in ("phone_purity", "pnmi")]
        by, values = "PNMI", [measure["pnmi"] for measure in measures]
        where += f", {clustering.clusters} clusters fitted on {clustering.frames} frames of it"
    best = values.index(max(values))
    return headings, rows, best, f"layer {best} is the best by {by}, chosen on {where}"


class _Clustering:
    """k-means of single layers on the frames of some utterances whose phones are known.

    Raises:
        CorpusError: If there are fewer frames than clusters.
    """

    def __init__(
        self, cuts: Sequence[Cut], features: FeatureSet, clusters: int, stride: int
    ) -> None:
        self.features, self.clusters, self.stride = features, clusters, stride
        self.cuts, self.frames = [], 0
        for place in np.random.default_rng(0).permutation(len(cuts)).tolist():
            if self.frames >= MAX_FRAMES:
                break
            self.cuts.append(cuts[place])
            self.frames += features.count(cuts[place].id)
        if self.frames < clusters:
            raise CorpusError(
                f"--clusters {clusters}: only {self.frames} frames to fit; use fewer clusters"
            )
        turns = [turns_of(cut, "phones") for cut in self.cuts]
        self.turns = turns
        self.phones = sorted({turn.label for each in turns for turn in each})

    def measure(self, layer: int) -> dict[str, float]:
        """Return purity() of a layer."""
        rows = [self.features.get(cut.id)[layer] for cut in self.cuts]  # (T, D) each
        sample = np.concatenate(rows).astype(np.float32)
        centres, _ = fit_centres(sample, self.clusters)
        labels = np.asarray(nearest_centre(torch.from_numpy(sample), torch.from_numpy(centres)))
        numbers = {phone: number for number, phone in enumerate(self.phones)}
        phones = np.concatenate(
            [
                at_frames(each, numbers, len(row), self.stride)
                for each, row in zip(self.turns, rows, strict=True)
            ]
        )
        counts = np.zeros((self.clusters, len(self.phones)), dtype=np.int64)
        np.add.at(counts, (labels[phones >= 0], phones[phones >= 0]), 1)
        return purity(counts)


def _command(job: Job, upstream: str, layer: int, clusters: int) -> str:
    train = job.corpus.info.splits.get("train")
    recipe = "mt4ssl_base" if train and train.hours >= BASE_HOURS else "mt4ssl_tiny"
    keys = {
        "data.corpus": str(job.corpus.root),
        "targets.offline.features": upstream,
        "targets.offline.layer": layer,
        "targets.offline.clusters": clusters,
    }
    given = [shlex.quote(f"{key}={value}") for key, value in keys.items()]
    return f"mt4ssl-bench kmeans {recipe} {' '.join(given)} --out labels/layer{layer}"
