"""The label store: cluster ids by utterance id at 50 Hz, bound to the digest of the corpora they were made from.

Shapes: T frames, V clusters, F features.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.errors import CheckpointError

FORMAT = 1
FRAME_RATE = 50  # labels per second: one per frame of the front end


@dataclass(frozen=True, kw_only=True)
class LabelInfo:
    """labels.json: where the labels come from."""

    format: int = FORMAT
    digest: str  # of the corpora
    clusters: int
    frame_rate: int = FRAME_RATE
    features: str = ""  # "mfcc", or "<an upstream's fingerprint>:<layer>"
    normalize: str = "none"  # of the features, before they met the centres
    frames: int = 0
    report: dict[str, float] = field(default_factory=dict)


class LabelStore:
    """An opened store; get(id) returns one utterance's labels (T,)."""

    def __init__(self, folder: Path) -> None:
        try:
            self.info = LabelInfo(**json.loads((folder / "labels.json").read_text(encoding="utf-8")))
            self._values: NDArray[np.uint16] = np.load(folder / "labels.npy", mmap_mode="r")
            ids = (folder / "ids.txt").read_text(encoding="utf-8").splitlines()
            offsets = np.load(folder / "offsets.npy")
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"labels {folder}: missing or damaged ({error}); run 'mt4ssl-bench kmeans'") from None
        if self.info.format != FORMAT:
            raise CheckpointError(f"labels {folder}: format {self.info.format}, this version reads {FORMAT}")
        self.folder = folder
        self._places = {name: (int(a), int(b)) for name, a, b in zip(ids, offsets[:-1], offsets[1:], strict=True)}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def get(self, name: str, frames: int) -> NDArray[np.uint16]:
        """Return the labels (frames,) of utterance `name`; raises CheckpointError when it has none or too few."""
        if name not in self._places:
            raise CheckpointError(f"labels {self.folder}: none for utterance '{name}'; run 'mt4ssl-bench kmeans' again")
        start, end = self._places[name]
        if end - start < frames:
            raise CheckpointError(
                f"labels {self.folder}: utterance '{name}' has {end - start} labels for {frames} frames at "
                f"{FRAME_RATE} Hz; made from other audio or at another frame rate"
            )
        return self._values[start : start + frames]

    def centres(self) -> NDArray[np.float32]:
        """Return the clusters' centres (V, F); raises CheckpointError for a store without them."""
        try:
            found: NDArray[np.float32] = np.load(self.folder / "centres.npy")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"labels {self.folder}: no centres ({error}); run 'mt4ssl-bench kmeans' into another --out"
            ) from None
        return found

    def check(self, digest: str, clusters: int) -> "LabelStore":
        """Return self; raises CheckpointError when the labels belong to another corpus or codebook."""
        again = 'run "mt4ssl-bench kmeans" again'
        if self.info.digest != digest:
            raise CheckpointError(
                f"targets.offline.labels={self.folder}: made from another corpus "
                f"({self.info.digest}, not {digest}); {again}"
            )
        if self.info.clusters != clusters:
            raise CheckpointError(
                f"targets.offline.clusters={clusters}: {self.folder} has {self.info.clusters} clusters; {again}"
            )
        if self.info.frame_rate != FRAME_RATE:
            raise CheckpointError(f"labels {self.folder}: {self.info.frame_rate} Hz, expected {FRAME_RATE}; {again}")
        return self


def write_labels(
    folder: Path,
    info: LabelInfo,
    labels: Iterable[tuple[str, NDArray[Any]]],
    centres: NDArray[np.float32] | None = None,
) -> LabelStore:
    """Write (utterance id, labels (T,)) pairs and the centres (V, F) as a store, completely or not at all.

    Returns it opened.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    ids, parts, offsets = [], [], [0]
    for name, values in labels:
        ids.append(name)
        parts.append(values.astype(np.uint16))
        offsets.append(offsets[-1] + len(values))
    np.save(aside / "labels.npy", np.concatenate(parts) if parts else np.zeros(0, np.uint16))
    np.save(aside / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    if centres is not None:
        np.save(aside / "centres.npy", centres)
    (aside / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    stated = asdict(info) | {"frames": offsets[-1]}
    (aside / "labels.json").write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return LabelStore(folder)
