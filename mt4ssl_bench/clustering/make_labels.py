"""The label store of corpora: found where it lies, or made by k-means in parts that are kept."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.feature_source import FeatureSource
from mt4ssl_bench.clustering.kmeans import CENTRES, label_frames, sample_frames, write_centres
from mt4ssl_bench.clustering.work_by_processes import Parts, one_at_a_time
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus, joint_digest
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD
from mt4ssl_bench.data.label_store import LabelStore, write_labels
from mt4ssl_bench.data.labels import LabelInfo
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.distributed import ALONE, World
from mt4ssl_bench.training.launch import check_shared

LOGGER = logging.getLogger(__name__)
SHORTEST = RECEPTIVE_FIELD / audio.RATE  # seconds: shorter cuts have no frame


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
    check_shared(folder.parent, world)
    with one_at_a_time(folder, world):
        if not _finished(folder, key, partial):
            cuts = [
                Joined([c.cuts(s) for c in corpora if s in c.info.splits], SHORTEST) for s in splits
            ]
            _create(Parts(partial, world), source, cuts, seed, folder, replace(info, made_by=key))
        if world.main and partial.exists() and LabelStore(folder).info.made_by == key:
            shutil.rmtree(partial, ignore_errors=True)
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


def _finished(folder: Path, key: str, partial: Path) -> bool:
    """Return whether a store is there, with its report; earlier revisions wrote that afterwards."""
    if not (folder / "labels.json").exists():
        return False
    if not partial.exists():
        return True
    info = LabelStore(folder).info
    return bool(info.report) or info.made_by != key


def _create(
    parts: Parts,
    source: FeatureSource,
    splits: Sequence[Joined],
    seed: int,
    folder: Path,
    info: LabelInfo,
) -> None:
    """Write the store of `splits` into `folder`; return when it is there."""
    sample_frames(parts, source, splits[0], seed)
    with parts.world.main_first():
        if parts.world.main and not (parts.folder / CENTRES).exists():
            write_centres(parts, source.config, seed)
    label_frames(parts, source, Joined(splits))
    if parts.world.main:
        _collect(parts, folder, info)
    parts.world.barrier()


def _collect(parts: Parts, folder: Path, info: LabelInfo) -> None:
    """Write the store from all parts, each utterance once; report how clusters are used."""
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

    def report() -> dict[str, float]:
        usage = counts[counts > 0] / max(counts.sum(), 1)
        entropy = float(-(usage * np.log(usage)).sum())
        size = f"{len(seen)} utterances, {counts.sum()} frames"
        use = f"{len(usage)} of {info.clusters} clusters used, perplexity {np.exp(entropy):.1f}"
        LOGGER.info("labels %s: %s, %s, entropy %.2f nats", folder, size, use, entropy)
        return {
            "inertia_per_frame": inertia,
            "clusters_used": len(usage),
            "entropy_nats": entropy,
            "perplexity": float(np.exp(entropy)),
        }

    write_labels(folder, info, labels(), centres, report=report)
