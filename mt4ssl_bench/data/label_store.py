"""The label store: cluster ids by utterance id in a folder; shards carry theirs with the cuts.

Shapes: T frames, V clusters, F features.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.labels import AGAIN, FORMAT, LabelInfo, check_origin, first_labels
from mt4ssl_bench.data.shards import LABELS
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.settings import Json


class LabelStore:
    """An opened store; get(id) returns one utterance's labels (T,)."""

    def __init__(self, folder: Path) -> None:
        try:
            self.info = LabelInfo(
                **json.loads((folder / "labels.json").read_text(encoding="utf-8"))
            )
            self._values: NDArray[np.uint16] = np.load(folder / "labels.npy", mmap_mode="r")
            keys = _keys((folder / "ids.txt").read_bytes())
            self._offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"labels {folder}: missing or damaged ({error}); run 'mt4ssl-bench kmeans'"
            ) from None
        if self.info.format != FORMAT:
            raise CheckpointError(
                f"labels {folder}: format {self.info.format}, this version reads {FORMAT}"
            )
        if len(self._offsets) != len(keys) + 1:
            raise CheckpointError(
                f"labels {folder}: damaged ({len(keys)} ids, {len(self._offsets)} offsets); {AGAIN}"
            )
        self.folder = folder
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        if (self._keys[1:] == self._keys[:-1]).any():
            raise CheckpointError(f"labels {folder}: an utterance stands in it twice; {AGAIN}")

    def __contains__(self, name: str) -> bool:
        return self._place(name) is not None

    def all_of(self, name: str) -> NDArray[np.uint16]:
        """Return all labels (T,) of an utterance; raises CheckpointError if it has none."""
        place = self._place(name)
        if place is None:
            raise CheckpointError(f"labels {self.folder}: none for utterance '{name}'; {AGAIN}")
        return self._values[self._offsets[place] : self._offsets[place + 1]]

    def get(self, name: str, frames: int) -> NDArray[np.uint16]:
        """Return the labels (frames,) of an utterance; raises CheckpointError for too few."""
        return first_labels(
            self.all_of(name), frames, name, f"labels {self.folder}", self.info.clusters
        )

    def of(self, cut: Cut, frames: int) -> NDArray[np.uint16]:
        """Return the labels (frames,) of a cut; see get."""
        return self.get(cut.id, frames)

    def _place(self, name: str) -> int | None:
        (key,) = _keys(name.encode())
        place = int(np.searchsorted(self._keys, key))
        known = place < len(self._keys) and self._keys[place] == key
        return int(self._order[place]) if known else None

    @property
    def identity(self) -> str:
        """What the labels are made from, with a digest that others of as many clusters lack."""
        if self.info.made_by:
            return _identity(self.info, self.info.made_by)
        with (self.folder / "labels.npy").open("rb") as file:
            return _identity(self.info, hashlib.file_digest(file, "sha256").hexdigest()[:12])

    def centres(self) -> NDArray[np.float32]:
        """Return the clusters' centres (V, F); raises CheckpointError for a store without them."""
        try:
            centres: NDArray[np.float32] = np.load(self.folder / "centres.npy")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"labels {self.folder}: no centres ({error}); {AGAIN}") from None
        return centres

    def report(self, values: Mapping[str, float]) -> "LabelStore":
        """Add measures of the labels to labels.json; returns the store opened again."""
        info = replace(self.info, report={**self.info.report, **values})
        _write_info(self.folder, info)
        return LabelStore(self.folder)

    def check(self, digest: str, clusters: int) -> "LabelStore":
        """Return self; raises CheckpointError if it is of another corpus or codebook."""
        check_origin(self.info, f"targets.offline.labels={self.folder}", digest, clusters)
        return self


class CarriedLabels:
    """The labels that the shards of some corpora carry, made by one k-means."""

    def __init__(self, infos: Sequence[Mapping[str, Json]], digest: str, clusters: int) -> None:
        self.info = LabelInfo(**cast("dict[str, Any]", infos[0]))
        if any(info != infos[0] for info in infos):
            raise CheckpointError(
                "data.corpus: their shards carry labels of different codebooks; shard them again"
            )
        check_origin(self.info, "the labels in the shards", digest, clusters)

    @property
    def identity(self) -> str:
        """See LabelStore.identity; the digest of labels.json where it does not state one."""
        stated = json.dumps(asdict(self.info), sort_keys=True).encode()
        return _identity(self.info, self.info.made_by or hashlib.sha256(stated).hexdigest()[:12])

    def of(self, cut: Cut, frames: int) -> NDArray[np.uint16]:
        """Return the labels (frames,) of a cut; raises CheckpointError for too few."""
        if LABELS not in (cut.custom or {}):
            raise CheckpointError(
                f"the labels in the shards: none for utterance '{cut.id}'; shard all with labels"
            )
        return first_labels(
            cut.load_custom(LABELS).astype(np.uint16, copy=False),
            frames,
            cut.id,
            "the labels in the shards",
            self.info.clusters,
        )


def _identity(info: LabelInfo, digest: str) -> str:
    return f"{info.features or 'frame labels'} ({digest})"


def _keys(names: bytes) -> NDArray[np.uint64]:
    """Return a number for each line: a million take 8 MB, as Python strings 150."""
    lines = names.split(b"\n") if names else []
    return np.array(
        [int.from_bytes(hashlib.blake2b(n, digest_size=8).digest()) for n in lines], dtype=np.uint64
    )


def write_labels(
    folder: Path,
    info: LabelInfo,
    labels: Iterable[tuple[str, NDArray[np.integer]]],
    centres: NDArray[np.float32] | None = None,
    *,
    report: Callable[[], Mapping[str, float]] = dict,
) -> LabelStore:
    """Write a store atomically.

    Args:
        folder: Of the store; one that is there is replaced.
        info: What the labels are of.
        labels: Utterance ids with labels (T,).
        centres: Of the clusters, (V, F).
        report: Called after the last label; returns measures of the labels for labels.json.
    """
    aside = folder.with_name(f".{folder.name}.{info.made_by or os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        frames = _write_arrays(aside, labels)
        if centres is not None:
            np.save(aside / "centres.npy", centres)
        _write_info(aside, replace(info, frames=frames, report={**info.report, **report()}))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return LabelStore(folder)


def _write_arrays(folder: Path, labels: Iterable[tuple[str, NDArray[np.integer]]]) -> int:
    """Write ids, labels and offsets; return the number of frames."""
    ids, offsets = [], [0]
    with (folder / "labels.npy").open("wb") as out:
        _write_header(out, 0)
        for name, values in labels:
            ids.append(name)
            out.write(values.astype("<u2").tobytes())
            offsets.append(offsets[-1] + len(values))
        out.seek(0)
        _write_header(out, offsets[-1])  # as long as the first: numpy leaves room for any length
    np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    return offsets[-1]


def _write_header(out: IO[bytes], count: int) -> None:
    header = {"descr": "<u2", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(out, header)


def _write_info(folder: Path, info: LabelInfo) -> None:
    write_text(folder / "labels.json", json.dumps(asdict(info), indent=1) + "\n")
