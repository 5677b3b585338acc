"""The offline extractor's labels: features at 50 Hz, k-means on a seeded sample, the nearest centre of every frame.

Shapes: T frames, F features, V clusters.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench import audio
from mt4ssl_bench.batching import pad
from mt4ssl_bench.config import to_dict
from mt4ssl_bench.console import progress
from mt4ssl_bench.corpus import Corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features import Features, Upstream, load_upstream
from mt4ssl_bench.upstream.config import OfflineConfig
from mt4ssl_bench.upstream.frontend import RECEPTIVE_FIELD, STRIDE, frame_count
from mt4ssl_bench.upstream.labels import LabelInfo, LabelStore, write_labels

LOGGER = logging.getLogger(__name__)
SAMPLED = 1.5  # frames read for the fit, over max_frames, so that the sample covers many utterances


def mfcc(samples: NDArray[np.float32]) -> Tensor:
    """Return (T, 39): 13 MFCC, deltas and double deltas of 16 kHz audio (N,), at 50 Hz.

    Kaldi's 25 ms window every 10 ms, as HuBERT's first iteration; every second frame is kept, and frame t then covers
    the very samples that frame t of the front end sees.
    """
    wave = torch.from_numpy(samples)[None] * 32768.0  # Kaldi's range: the log energies then stay above its floor
    static = torchaudio.compliance.kaldi.mfcc(wave, sample_frequency=audio.RATE, use_energy=False).t()[None]
    delta = torchaudio.functional.compute_deltas(static)
    both = torch.cat([static, delta, torchaudio.functional.compute_deltas(delta)], dim=1)[0].t()  # (2T, 39)
    return both[::2].contiguous()[: frame_count(len(samples))]


class MFCC:
    """mfcc() behind the Upstream protocol."""

    name = fingerprint = "mfcc"
    num_layers, dim, stride, parameters = 1, 39, STRIDE, 0

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """See Upstream.extract."""
        rows = [mfcc(wave[:n].cpu().numpy()) for wave, n in zip(waveforms, lengths.tolist(), strict=True)]
        layers = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[None]
        return Features(layers, torch.tensor([len(row) for row in rows]))


class Codebook:
    """A label store's centres, for the units of any audio: features of the same upstream and layer come in.

    Args:
        folder: what `mt4ssl-bench kmeans` wrote.
    """

    def __init__(self, folder: Path) -> None:
        store = LabelStore(folder)
        self.centres = torch.from_numpy(store.centres())
        self.normalize = store.info.normalize
        self.fingerprint, _, layer = store.info.features.partition(":")
        self.layer = int(layer or 0)

    def __call__(self, frames: Tensor) -> NDArray[np.int64]:
        """Return the unit of each frame (T,) of hidden states (T, F)."""
        return nearest(normalized(frames, self.normalize), self.centres)


def nearest(frames: Tensor, centres: Tensor) -> NDArray[np.int64]:
    """Return the nearest centre (T,) of each frame (T, F) among (V, F): |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)."""
    found: NDArray[np.int64] = (frames @ centres.t() - centres.square().sum(1) / 2).argmax(1).numpy()
    return found


def normalized(frames: Tensor, how: str) -> Tensor:
    """Return frames (T, F) with mean 0 and variance 1 of each feature where `how` is "utterance"."""
    if how == "utterance":
        return (frames - frames.mean(0)) / frames.std(0, correction=0).clamp(min=1e-5)
    return frames


class FeatureSource:
    """Frames (T, F) at 50 Hz of each cut, from MFCC or from one layer of an upstream."""

    def __init__(self, config: OfflineConfig, device: str = "cpu") -> None:
        self.config = config
        self.upstream: Upstream = MFCC() if config.features == "mfcc" else load_upstream(config.features, device=device)
        if self.upstream.stride != STRIDE:
            raise CorpusError(
                f"targets.offline.features={config.features}: one frame per {self.upstream.stride} samples; "
                f"labels need one per {STRIDE}"
            )
        self.name = "mfcc" if config.features == "mfcc" else f"{self.upstream.fingerprint}:{config.layer}"

    def __call__(self, cut: Any) -> Tensor:  # noqa: ANN401 - lhotse ships no types
        """Return the cut's frames (T, F), normalised as the config says."""
        layers, _ = self.upstream.extract(*pad([audio.read(cut)]))
        layer = 0 if self.name == "mfcc" else self.config.layer
        return normalized(layers[layer, 0].float().cpu(), self.config.normalize)


def make_labels(
    corpora: Sequence[Corpus],
    splits: Sequence[str],
    config: OfflineConfig,
    *,
    out: Path | None,
    seed: int,
    device: str,
) -> LabelStore:
    """Fit k-means on the corpora's first split and label all given splits; a store made before is returned as it is.

    Without `out` the store lies in the first corpus's folder, under a name made of everything that it depends on.
    """
    digest = joint_digest(corpora)
    source = FeatureSource(config, device)
    depends = {**to_dict(config), "weight": 0, "labels": "", "features": source.name, "digest": digest}
    depends |= {"splits": list(splits), "seed": seed}
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
    folder = out or corpora[0].root / "labels" / key
    if (folder / "labels.json").exists():
        return LabelStore(folder).check(digest, config.clusters)
    folder.parent.mkdir(parents=True, exist_ok=True)
    cuts = [cut for corpus in corpora for split in splits if split in corpus.info.splits for cut in corpus.cuts(split)]
    cuts = list({cut.id: cut for cut in cuts if cut.duration * audio.RATE >= RECEPTIVE_FIELD}.values())
    training = [cut for corpus in corpora for cut in corpus.cuts(splits[0])]
    centres, report = _fit_centres(training, source, config, seed)
    info = LabelInfo(
        digest=digest,
        clusters=config.clusters,
        features=source.name,
        normalize=config.normalize,
        report=report,
    )
    counts = np.zeros(config.clusters, dtype=np.int64)
    store = write_labels(folder, info, _assign(cuts, source, centres, counts), centres.numpy())
    usage = counts / max(counts.sum(), 1)
    perplexity = float(np.exp(-(usage[usage > 0] * np.log(usage[usage > 0])).sum()))
    LOGGER.info(
        "labels %s: %d utterances, %d frames, %d of %d clusters used, perplexity %.1f, entropy %.2f nats",
        folder, len(cuts), counts.sum(), (counts > 0).sum(), config.clusters, perplexity, np.log(perplexity),
    )  # fmt: skip
    return store


def joint_digest(corpora: Sequence[Corpus]) -> str:
    """Return one digest for several corpora, whatever their order; one corpus keeps its own."""
    digests = sorted(corpus.info.digest for corpus in corpora)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _fit_centres(
    cuts: Sequence[Any], source: FeatureSource, config: OfflineConfig, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Fit k-means on a seeded sample of frames; returns centres (V, F)."""
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    total = sum(frame_count(round(cut.duration * audio.RATE)) for cut in cuts)
    share = min(1.0, config.max_frames / max(total, 1))
    order = generator.permutation(len(cuts))
    taken = order[: max(1, round(len(cuts) * min(1.0, share * SAMPLED)))]
    parts = []
    with progress("k-means: reading frames", len(taken)) as advance:
        for i in taken:
            frames = source(cuts[i])
            keep = generator.random(len(frames)) < share * len(cuts) / len(taken)
            parts.append(frames[torch.from_numpy(keep)].numpy())
            advance(1, "")
    sample = np.concatenate(parts).astype(np.float32)
    if len(sample) < config.clusters:
        raise CorpusError(
            f"targets.offline.clusters={config.clusters}: the training split has only {len(sample)} frames; use fewer"
        )
    LOGGER.info("k-means: fitting %d clusters on %d frames of %d features", config.clusters, *sample.shape)
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
    return torch.from_numpy(model.cluster_centers_).float(), {"inertia_per_frame": float(model.inertia_) / len(sample)}


def _assign(
    cuts: Sequence[Any], source: FeatureSource, centres: Tensor, counts: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield (utterance id, nearest centre of each frame), counting the clusters on the way."""
    with progress("k-means: labelling", len(cuts)) as advance:
        for cut in cuts:
            found = nearest(source(cut), centres)
            counts += np.bincount(found, minlength=len(centres))
            yield cut.id, found
            advance(1, "")


def describe(store: LabelStore) -> dict[str, Any]:
    """Return what `mt4ssl-bench kmeans` prints of a store."""
    return {"folder": str(store.folder), **asdict(store.info)}
