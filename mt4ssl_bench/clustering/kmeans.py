"""The offline extractor's labels: features at 50 Hz, k-means on a seeded sample, the nearest centre
of every frame.

Shapes: T frames, F features, V clusters.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.clustering.config import OfflineConfig
from mt4ssl_bench.clustering.shared_parts import Arrays, Parts, one_at_a_time
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cuts import Joined
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD, STRIDE, frame_count
from mt4ssl_bench.data.labels import LabelInfo, LabelStore, write_labels
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.mfcc import MFCC
from mt4ssl_bench.features.units import nearest_centre, normalized
from mt4ssl_bench.training.distributed import ALONE, World

LOGGER = logging.getLogger(__name__)
CENTRES = "centres.npz"
SHORTEST = RECEPTIVE_FIELD / audio.RATE  # seconds: shorter cuts have no frame
SAMPLED = 1.5  # frames read for the fit, over max_frames, so that the sample covers many utterances


class FeatureSource:
    """Frames (T, F) at 50 Hz of cuts, from MFCC or from one layer of an upstream."""

    def __init__(self, config: OfflineConfig, device: str = "cpu") -> None:
        self.config = config
        self.upstream: Upstream = (
            MFCC() if config.features == "mfcc" else load_upstream(config.features, device=device)
        )
        if self.upstream.stride != STRIDE:
            raise CorpusError(
                f"targets.offline.features={config.features}: one frame per {self.upstream.stride} "
                f"samples; labels need one per {STRIDE}"
            )
        layers, layer = self.upstream.num_layers, 0 if config.features == "mfcc" else config.layer
        if not -layers <= layer < layers:
            raise ConfigError(
                f"targets.offline.layer={layer}: '{self.upstream.name}' has {layers} hidden states"
            )
        self.layer = layer % layers
        self.unreadable: dict[str, str] = {}  # utterance id -> reason, each said once
        self.name = self._name(self.upstream.fingerprint)
        self.former = [self._name(mark) for mark in getattr(self.upstream, "former", ())]

    def _name(self, mark: str) -> str:
        return "mfcc" if self.config.features == "mfcc" else f"{mark}:{self.layer}"

    def __call__(self, cuts: Sequence[Any]) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield (utterance id, frames), normalised as the config says, batch by batch.

        Audio that cannot be read has no frames: training leaves it out too, and stops where there
        is too much of it.
        """
        for batch in Pass(self.upstream)(cuts, unreadable=self.unreadable):
            frames = [(name, torch.from_numpy(values[self.layer])) for name, values in batch]
            yield [(name, normalized(found, self.config.normalize)) for name, found in frames]


def make_labels(
    corpora: Sequence[Corpus],
    splits: Sequence[str],
    config: OfflineConfig,
    *,
    out: Path | None,
    seed: int,
    world: World = ALONE,
) -> LabelStore:
    """Fit k-means on the corpora's first split and label all given splits.

    A store made before is returned as it is.

    Without `out` the store lies in the first corpus's folder, under a name made of everything that
    it depends on. All processes of `world` share the work; what an interrupted call has done is
    kept beside the store and not done again.
    """
    digest = joint_digest(corpora)
    source = FeatureSource(config, world.device)
    depends = {**to_dict(config), "weight": 0, "labels": "", "digest": digest}
    depends |= {"splits": list(splits), "seed": seed, "layer": source.layer}
    key, *older = (
        hashlib.sha256(
            json.dumps({**depends, "features": name}, sort_keys=True).encode()
        ).hexdigest()[:12]
        for name in (source.name, *source.former)
    )
    places = corpora[0].root / "labels"
    key = next((old for old in older if (places / old / "labels.json").exists()), key)
    folder = out or places / key
    partial = folder.with_name(f".{folder.name}.{key}")
    with one_at_a_time(partial, world):
        if not (folder / "labels.json").exists():
            parts = Parts(partial, world)
            whole = [
                Joined([c.cuts(s) for c in corpora if s in c.info.splits], SHORTEST) for s in splits
            ]
            _sample(parts, source, whole[0], config, seed)
            with world.main_first():
                if world.main and not (partial / CENTRES).exists():
                    _fit(parts, config, seed)
            _label(parts, source, whole)
            if world.main:
                info = LabelInfo(
                    digest=digest,
                    clusters=config.clusters,
                    features=source.name,
                    normalize=config.normalize,
                    made_by=key,
                )
                _collect(parts, folder, info)
                shutil.rmtree(partial)
    store = LabelStore(folder).check(digest, config.clusters)
    if store.info.made_by not in {"", key, *older}:
        raise ConfigError(
            f"{folder}: holds labels made in another way ({store.info.clusters} clusters of "
            f"{store.info.features}, not of {source.name}, or other splits, seed or "
            "targets.offline keys); choose another --out"
        )
    return store


def joint_digest(corpora: Sequence[Corpus]) -> str:
    """Return one digest for several corpora, whatever their order; one corpus keeps its own."""
    digests = sorted(corpus.info.digest for corpus in corpora)
    return (
        digests[0]
        if len(digests) == 1
        else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    )


def _sample(
    parts: Parts, source: FeatureSource, cuts: Joined, config: OfflineConfig, seed: int
) -> None:
    """Write a seeded sample of about max_frames frames: which ones depends on the cuts and the seed
    alone.
    """
    counts = [frame_count(round(seconds * audio.RATE)) for seconds in cuts.durations.tolist()]
    share = min(1.0, config.max_frames / max(sum(counts), 1))
    order = np.random.default_rng(seed).permutation(len(cuts))
    taken = order[: max(1, round(len(cuts) * min(1.0, share * SAMPLED)))].tolist()
    rate = share * len(cuts) / len(taken)

    def make(places: range) -> Arrays:
        rows = []
        for batch in source([cuts[taken[i]] for i in places]):
            for name, frames in batch:
                drawn = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
                keep = np.random.default_rng(int.from_bytes(drawn)).random(len(frames)) < rate
                rows.append((name, frames[torch.from_numpy(keep)].numpy()))
        rows.sort(key=itemgetter(0))  # whatever the batches were
        none = np.zeros((0, source.upstream.dim), dtype=np.float32)
        return {"frames": np.concatenate([none, *(row for _, row in rows)]).astype(np.float32)}

    parts.make("sample", len(taken), make, "k-means: reading frames")


def _fit(parts: Parts, config: OfflineConfig, seed: int) -> None:
    """Fit the centres (V, F) on the sampled frames."""
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
    parts.write(CENTRES, {"centres": centres, "inertia": np.float64(model.inertia_ / len(sample))})


def _label(parts: Parts, source: FeatureSource, splits: Sequence[Joined]) -> None:
    """Write the nearest centre of every frame of every cut."""
    with np.load(parts.folder / CENTRES) as found:
        centres = torch.from_numpy(found["centres"])
    cuts = Joined(splits)

    def make(places: range) -> Arrays:
        ids, lengths, labels = [], [], [np.zeros(0, dtype=np.uint16)]
        for batch in source(cuts[places.start : places.stop]):
            ids += [name for name, _ in batch]
            lengths += [len(frames) for _, frames in batch]
            labels.append(
                nearest_centre(torch.cat([frames for _, frames in batch]), centres).astype(
                    np.uint16
                )
            )
        return {
            "ids": np.array(ids, dtype=np.str_),
            "lengths": np.array(lengths, dtype=np.int64),
            "labels": np.concatenate(labels),
        }

    parts.make("labels", len(cuts), make, "k-means: labelling")


def _collect(parts: Parts, folder: Path, info: LabelInfo) -> LabelStore:
    """Make the store of all parts, each utterance once, with a report of how the clusters are
    used.
    """
    with np.load(parts.folder / CENTRES) as found:
        centres, inertia = found["centres"], float(found["inertia"])
    counts = np.zeros(info.clusters, dtype=np.int64)
    seen: set[str] = set()

    def labels() -> Iterator[tuple[str, NDArray[np.uint16]]]:
        for part in parts.read("labels"):
            ends = np.cumsum(part["lengths"])
            for name, start, end in zip(
                part["ids"].tolist(), ends - part["lengths"], ends, strict=True
            ):
                if name not in seen:
                    seen.add(name)
                    counts[:] += np.bincount(part["labels"][start:end], minlength=len(counts))
                    yield name, part["labels"][start:end]

    report = {"inertia_per_frame": inertia}
    store = write_labels(folder, info, labels(), centres)
    usage = counts / max(counts.sum(), 1)
    entropy = float(-(usage[usage > 0] * np.log(usage[usage > 0])).sum())
    report |= {
        "clusters_used": int((counts > 0).sum()),
        "entropy_nats": entropy,
        "perplexity": float(np.exp(entropy)),
    }
    LOGGER.info(
        "labels %s: %d utterances, %d frames, %d of %d clusters used, perplexity %.1f, entropy "
        "%.2f nats",
        folder,
        len(seen),
        counts.sum(),
        report["clusters_used"],
        info.clusters,
        report["perplexity"],
        entropy,
    )
    return store.report(report)
