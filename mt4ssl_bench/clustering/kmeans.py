"""Labels of the offline targets: k-means on a seeded sample of frames, then each frame's cluster.

Shapes: T frames, F features, V clusters.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.feature_source import FeatureSource
from mt4ssl_bench.clustering.work_by_processes import Arrays, Parts, one_at_a_time
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Json
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.draw import draw
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD, frame_count
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.units import nearest_centre
from mt4ssl_bench.training.distributed import ALONE, World

LOGGER = logging.getLogger(__name__)
CENTRES = "centres.npz"
SHORTEST = RECEPTIVE_FIELD / audio.RATE  # seconds: shorter cuts have no frame
SAMPLED = 1.5  # frames that are read, over those of the sample: it covers more utterances so


def make_labels(
    corpora: Sequence[Corpus],
    splits: Sequence[str],
    config: OfflineConfig,
    *,
    out: Path | None,
    seed: int,
    world: World = ALONE,
) -> LabelStore:
    """Return the label store of corpora; create it if it does not exist.

    The processes share the work. Finished parts are kept beside the store, so that an interrupted
    call continues.

    Args:
        corpora: Corpora that are labeled together.
        splits: Splits to label; k-means is fitted on the first.
        config: What is clustered, and into how many clusters.
        out: The store; by default in the first corpus, under a digest of all that it depends on.
        seed: Of the sample and of k-means.
        world: The processes that call this together.

    Raises:
        ConfigError: If `out` holds labels created with different settings.
        CorpusError: If the corpora have too few frames.
    """
    source = FeatureSource(config, world.device)
    info = LabelInfo(
        digest=joint_digest(corpora),
        clusters=config.clusters,
        features=source.name,
        normalize=config.normalize,
    )
    settings = {**to_dict(config), "weight": 0, "labels": "", "digest": info.digest}
    settings |= {"splits": list(splits), "seed": seed, "layer": source.layer}
    key, *former = (_key({**settings, "features": name}) for name in (source.name, *source.former))
    stores = corpora[0].root / "labels"
    key = next((old for old in former if (stores / old / "labels.json").exists()), key)
    folder = out or stores / key
    partial = folder.with_name(f".{folder.name}.{key}")
    with one_at_a_time(partial, world):
        if not (folder / "labels.json").exists():
            cuts = [
                Joined([c.cuts(s) for c in corpora if s in c.info.splits], SHORTEST) for s in splits
            ]
            _create(Parts(partial, world), source, cuts, seed, folder, replace(info, made_by=key))
    store = LabelStore(folder).check(info.digest, config.clusters)
    if store.info.made_by not in {"", key, *former}:
        raise ConfigError(
            f"{folder}: holds labels created with different settings ({store.info.clusters} "
            f"clusters of {store.info.features}, not of {source.name}, or other splits, seed or "
            "targets.offline keys); choose another --out"
        )
    return store


def _key(settings: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _create(
    parts: Parts,
    source: FeatureSource,
    splits: Sequence[Joined],
    seed: int,
    folder: Path,
    info: LabelInfo,
) -> None:
    """Write the store of `splits` into `folder`, and remove the parts."""
    _sample(parts, source, splits[0], seed)
    with parts.world.main_first():
        if parts.world.main and not (parts.folder / CENTRES).exists():
            _fit(parts, source.config, seed)
    _label(parts, source, Joined(splits))
    if parts.world.main:
        _collect(parts, folder, info)
        shutil.rmtree(parts.folder)


def joint_digest(corpora: Sequence[Corpus]) -> str:
    """Return one digest of several corpora in any order; one corpus keeps its own."""
    digests = sorted(corpus.info.digest for corpus in corpora)
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _sample(parts: Parts, source: FeatureSource, cuts: Joined, seed: int) -> None:
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


def _fit(parts: Parts, config: OfflineConfig, seed: int) -> None:
    """Write the centres (V, F) of the sample."""
    from sklearn.cluster import MiniBatchKMeans

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
    model = MiniBatchKMeans(  # HuBERT's settings
        n_clusters=config.clusters,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        n_init=5,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(sample)
    centres = model.cluster_centers_.astype(np.float32)
    parts.write(CENTRES, {"centres": centres, "inertia": np.array(model.inertia_ / len(sample))})


def _label(parts: Parts, source: FeatureSource, cuts: Joined) -> None:
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


def _collect(parts: Parts, folder: Path, info: LabelInfo) -> None:
    """Write the store from all parts, each utterance once, and report how clusters are used."""
    with np.load(parts.folder / CENTRES) as arrays:
        centres, inertia = arrays["centres"], float(arrays["inertia"])
    counts = np.zeros(info.clusters, dtype=np.int64)
    seen: set[str] = set()  # an utterance may be in several splits

    def labels() -> Iterator[tuple[str, NDArray[np.uint16]]]:
        for part in parts.read("labels"):
            rows = np.split(part["labels"].astype(np.uint16), np.cumsum(part["lengths"]))[:-1]
            for name, row in zip(part["ids"].tolist(), rows, strict=True):
                if name not in seen:
                    seen.add(name)
                    counts[:] += np.bincount(row, minlength=len(counts))
                    yield name, row

    store = write_labels(folder, info, labels(), centres)
    usage = counts[counts > 0] / max(counts.sum(), 1)
    entropy = float(-(usage * np.log(usage)).sum())
    size = f"{len(seen)} utterances, {counts.sum()} frames"
    use = f"{len(usage)} of {info.clusters} clusters used, perplexity {np.exp(entropy):.1f}"
    LOGGER.info("labels %s: %s, %s, entropy %.2f nats", folder, size, use, entropy)
    store.report(
        {
            "inertia_per_frame": inertia,
            "clusters_used": len(usage),
            "entropy_nats": entropy,
            "perplexity": float(np.exp(entropy)),
        }
    )
