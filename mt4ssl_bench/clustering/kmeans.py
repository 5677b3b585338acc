"""K-means on a seeded sample of frames, then each frame's nearest cluster.

Shapes: T frames, F features, V clusters.
"""

import logging
import shutil
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.feature_source import FeatureSource
from mt4ssl_bench.clustering.work_by_processes import Arrays, Parts
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.frame_grid import frame_count
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features.units import nearest_centre

LOGGER = logging.getLogger(__name__)
CENTRES = "centres.npz"
SAMPLED = 1.5  # frames that are read, over those of the sample: it covers more utterances so


def sample_frames(parts: Parts, source: FeatureSource, cuts: Joined, seed: int) -> None:
    """Write about max_frames frames, chosen by the seed and the utterances' ids only."""
    counts = [frame_count(round(seconds * audio.RATE)) for seconds in cuts.durations.tolist()]
    share = min(1.0, source.config.max_frames / max(sum(counts), 1))
    order = np.random.default_rng(seed).permutation(len(cuts))
    read = order[: max(1, round(len(cuts) * min(1.0, share * SAMPLED)))].tolist()
    rate = share * len(cuts) / len(read)  # of the frames in utterances that are read

    def make(places: range) -> Arrays:
        rows = []
        for batch in source([cuts[read[place]] for place in places]):
            for name, frames in batch:
                keep = np.random.default_rng(draw(seed, name)).random(len(frames)) < rate
                rows.append((name, frames[torch.from_numpy(keep)].numpy()))
        rows.sort(key=itemgetter(0))  # batches come in an order that depends on the lengths
        none = np.zeros((0, source.upstream.dim), dtype=np.float32)
        return {"frames": np.concatenate([none, *(row for _, row in rows)]).astype(np.float32)}

    parts.make("sample", len(read), make, "k-means: reading frames")


def write_centres(parts: Parts, config: OfflineConfig, seed: int) -> None:
    """Write the centres (V, F) of the sample."""
    sample = np.concatenate([part["frames"] for part in parts.read("sample")])
    if len(sample) < config.clusters:
        shutil.rmtree(parts.folder)
        raise CorpusError(
            f"targets.offline.clusters={config.clusters}: only {len(sample)} frames of the "
            f"training split to fit (targets.offline.max_frames={config.max_frames}); use fewer "
            "clusters"
        )
    LOGGER.info(
        "k-means: fitting %d clusters on %d frames of %d features", config.clusters, *sample.shape
    )
    centres, inertia = fit_centres(sample, config.clusters, seed)
    parts.write(CENTRES, {"centres": centres, "inertia": np.array(inertia)})


def fit_centres(
    sample: NDArray[np.float32], clusters: int, seed: int = 0
) -> tuple[NDArray[np.float32], float]:
    """Return the centres (V, F) of a sample (T, F), and its mean squared distance to them."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(  # HuBERT's settings, but 5 starts for its 20
        n_clusters=clusters,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        n_init=5,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(sample)
    return model.cluster_centers_.astype(np.float32), model.inertia_ / len(sample)


def label_frames(parts: Parts, source: FeatureSource, cuts: Joined) -> None:
    """Write the cluster of every frame of every cut."""
    with np.load(parts.folder / CENTRES) as arrays:
        centres = torch.from_numpy(arrays["centres"])

    def make(places: range) -> Arrays:
        ids, lengths, labels = [], [], [np.zeros(0, dtype=np.uint16)]
        for batch in source(cuts[places.start : places.stop]):
            ids += [name for name, _ in batch]
            lengths += [len(frames) for _, frames in batch]
            frames = torch.cat([frames for _, frames in batch])
            labels.append(nearest_centre(frames, centres).astype(np.uint16))
        return {
            "ids": np.array(ids, dtype=np.str_),
            "lengths": np.array(lengths, dtype=np.int64),
            "labels": np.concatenate(labels),
        }

    parts.make("labels", len(cuts), make, "k-means: labeling")
