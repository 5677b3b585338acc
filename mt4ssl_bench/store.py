"""The feature store: one pass of an upstream over a split, kept under the digests of its weights and corpus.

Shapes: L hidden states, T frames, D dimension, U utterances, K crops.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench import audio
from mt4ssl_bench.batching import Batches, pad
from mt4ssl_bench.console import progress
from mt4ssl_bench.errors import BenchError, CheckpointError, UpstreamError
from mt4ssl_bench.features import Features, Upstream

LOGGER = logging.getLogger(__name__)
BATCH_SECONDS = 80.0  # audio per forward pass, padding included
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where frozen features are kept and how much disk they may take."""

    precision: str = "fp16"  # fp16 or fp32
    limit_gb: float = 20.0  # of all entries together; the ones unused for longest go first


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Seeded crops of every utterance whose features are averaged over time; seconds=0 takes utterances whole."""

    seconds: float
    count: int = 1
    seed: int = 0


class FeatureSet:
    """One split's features: get(id) returns (T, L, D), or (K, L, D) where a store of means was asked for."""

    def __init__(self, file: Path) -> None:
        try:
            index = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            shape = (index["rows"], index["layers"], index["dim"])
            self._values = np.memmap(file, dtype=DTYPES[index["precision"]], mode="r", shape=shape)
            self._places = {name: (a, b) for name, a, b in index["utterances"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"features {file}: damaged ({error}); delete it and evaluate again") from None
        self.layers, self.dim = index["layers"], index["dim"]

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: str) -> NDArray[Any]:
        """Return one utterance's features, in the store's precision."""
        start, end = self._places[name]
        return self._values[start:end]

    def batch(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return several utterances as fp32 (B, T, L, D), zero-padded, and their frames (B,)."""
        rows = [self.get(name) for name in names]
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.zeros(len(rows), int(lengths.max()), self.layers, self.dim)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = torch.from_numpy(row.astype(np.float32))
        return padded, lengths


class FeatureStore:
    """All features kept under `root`; features() makes what is missing."""

    def __init__(self, root: Path, config: StoreConfig) -> None:
        self.root, self.config = root, config

    def frames(self, upstream: Upstream, digest: str, split: str, cuts: Sequence[Any]) -> FeatureSet:
        """Return every frame's hidden states of the cuts."""
        total = sum(cut.duration for cut in cuts) * audio.RATE / upstream.stride

        def make() -> Iterator[tuple[str, NDArray[Any]]]:
            for features, ids in self._pass(upstream, cuts, lambda cut: [audio.read(cut)], 1, f"features {split}"):
                for b, (name, count) in enumerate(zip(ids, features.lengths.tolist(), strict=True)):
                    yield name, features.layers[:, b, :count].transpose(0, 1).cpu().numpy()

        return self._get(upstream, digest, f"{split}.frames", cuts, int(total), make)

    def means(self, upstream: Upstream, digest: str, split: str, cuts: Sequence[Any], crops: Crops) -> FeatureSet:
        """Return the mean over real frames of each crop: exact for heads that are linear up to a mean over time."""
        name = f"{split}.means-{crops.seconds:g}s-{crops.count}-{crops.seed}"

        def crop(cut: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401 - lhotse ships no types
            samples = audio.read(cut)
            length = round(crops.seconds * audio.RATE)
            if not length or len(samples) <= length:
                return [samples] * crops.count
            drawn = hashlib.blake2b(f"{crops.seed} {cut.id}".encode(), digest_size=8).digest()
            starts = np.random.default_rng(int.from_bytes(drawn)).integers(0, len(samples) - length + 1, crops.count)
            return [samples[s : s + length] for s in starts]

        def make() -> Iterator[tuple[str, NDArray[Any]]]:
            for features, ids in self._pass(upstream, cuts, crop, crops.count, f"means {split}"):
                real = torch.arange(features.layers.shape[2])[None] < features.lengths[:, None]  # (B, T)
                mean = (features.layers.cpu() * real[..., None]).sum(2) / features.lengths[:, None]  # (L, B, D)
                grouped = mean.transpose(0, 1).reshape(len(ids), crops.count, *mean.shape[::2])
                yield from zip(ids, grouped.numpy(), strict=True)

        return self._get(upstream, digest, name, cuts, len(cuts) * crops.count, make)

    def _pass(
        self,
        upstream: Upstream,
        cuts: Sequence[Any],
        read: Callable[[Any], list[NDArray[np.float32]]],
        views: int,
        title: str,
    ) -> Iterator[tuple[Features, list[str]]]:
        """Run the upstream once over the cuts, read() giving `views` waveforms each, in length-bucketed batches."""

        def make(members: Sequence[Any]) -> tuple[Tensor, Tensor, list[str]]:
            waves, lengths = pad([wave for cut in members for wave in read(cut)])
            return waves, lengths, [cut.id for cut in members]

        with progress(f"{title} of {upstream.name}", len(cuts)) as advance:
            for waves, lengths, ids in Batches(cuts, make, seconds=BATCH_SECONDS / views)():
                features = upstream.extract(waves, lengths)
                if not torch.isfinite(features.layers).all():
                    raise UpstreamError(f"upstream '{upstream.name}' returned NaN or infinity within {', '.join(ids)}")
                yield features, ids
                advance(len(ids), "")

    def _get(
        self,
        upstream: Upstream,
        digest: str,
        name: str,
        cuts: Sequence[Any],
        rows: int,
        make: Callable[[], Iterator[tuple[str, NDArray[Any]]]],
    ) -> FeatureSet:
        precision = self.config.precision
        folder = self.root / f"{upstream.fingerprint}-{digest}-{precision}"
        members = hashlib.sha256("\n".join(sorted(cut.id for cut in cuts)).encode()).hexdigest()[:8]
        file = folder / f"{name}-{members}.bin"
        if not file.with_suffix(".json").exists():
            self._make_room(folder, rows * upstream.num_layers * upstream.dim * DTYPES[precision].itemsize)
            self._write(file, make())
        os.utime(folder)
        return FeatureSet(file)

    def _write(self, file: Path, utterances: Iterator[tuple[str, NDArray[Any]]]) -> None:
        """Write values first and the index last: an index means that every value is there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        places: list[tuple[str, int, int]] = []
        rows, shape = 0, (0, 0)
        try:
            with aside.open("wb") as out:
                for name, values in utterances:
                    with np.errstate(over="ignore"):
                        row = np.ascontiguousarray(values, dtype=DTYPES[self.config.precision])
                    if not np.isfinite(row).all():
                        raise UpstreamError(f"features of '{name}' are too large for fp16; set store.precision=fp32")
                    out.write(row.data)
                    places.append((name, rows, rows + len(values)))
                    rows, shape = rows + len(values), values.shape[1:]
            aside.replace(file)
        except OSError as error:
            raise BenchError(
                f"{file}: could not be written ({error}); free disk space or choose another --store"
            ) from None
        finally:
            aside.unlink(missing_ok=True)
        index = {"precision": self.config.precision, "rows": rows, "layers": shape[0], "dim": shape[1]}
        aside.write_text(json.dumps({**index, "utterances": places}), encoding="utf-8")
        aside.replace(file.with_suffix(".json"))

    def _make_room(self, keep: Path, need: int) -> None:
        """Delete the entries unused for longest until `need` bytes fit; raises BenchError when they never will."""
        limit = self.config.limit_gb * GIB
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        entries = sorted((e for e in self.root.iterdir() if e.is_dir()), key=lambda e: e.stat().st_mtime)
        sizes = {entry: sum(f.stat().st_size for f in entry.iterdir()) for entry in entries}
        leaving = []
        for entry in entries:
            if sum(sizes.values()) + need <= limit:
                break
            if entry != keep:
                leaving.append(entry)
                free += sizes.pop(entry)
        kept = sum(sizes.values())
        if kept + need > limit or need > free:
            raise BenchError(
                f"features need {(kept + need) / GIB:.3g} GiB; store.limit_gb allows {self.config.limit_gb:g} and "
                f"the disk has {free / GIB:.3g} free; raise store.limit_gb, choose another --store, or evaluate "
                "a smaller split"
            )
        for entry in leaving:
            LOGGER.info("store: removing %s to stay under %g GiB", entry.name, self.config.limit_gb)
            shutil.rmtree(entry)
