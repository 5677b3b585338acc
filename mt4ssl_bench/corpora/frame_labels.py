"""Cluster labels that other toolkits keep beside their corpora, as a label store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.corpora.rows import DURATION_SLACK
from mt4ssl_bench.data import audio
from mt4ssl_bench.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from mt4ssl_bench.data.corpus import Corpus
    from mt4ssl_bench.data.label_store import LabelStore

LABEL_RATE = 50  # cluster labels per second

Labels = tuple[str, NDArray[np.uint16]]  # utterance id, cluster ids (T,)


@dataclass(frozen=True)
class FrameLabels:
    """Cluster ids of a corpus's utterances at 50 Hz.

    Args:
        name: Name of the store: its folder is labels-<name>.
        made_by: What the labels were made from, recorded in the store.
        utterances: The ids of each utterance.
        clusters: Number of clusters.
    """

    name: str
    made_by: str
    utterances: Sequence[Labels]
    clusters: int

    def write(self, corpus: "Corpus") -> "LabelStore":
        """Write a store of these labels into the folder of a corpus."""
        from mt4ssl_bench.data.label_store import write_labels
        from mt4ssl_bench.data.labels import LabelInfo

        info = LabelInfo(digest=corpus.info.digest, clusters=self.clusters, features=self.made_by)
        return write_labels(corpus.root / f"labels-{self.name}", info, self.utterances)


def read_frame_labels(
    name: str, made_by: str, utterances: Iterable[Labels], clusters: int | None, holder: str
) -> FrameLabels | None:
    """Return the labels of all utterances; None if there are none.

    Args:
        name: Name of the store.
        made_by: What the labels were made from.
        utterances: The ids of each utterance.
        clusters: Number of clusters; default: largest label + 1.
        holder: What holds the labels, for the message.

    Raises:
        ConfigError: If `clusters` is smaller than the labels need.
    """
    read = list(utterances)
    least = max((int(ids.max()) + 1 for _, ids in read if len(ids)), default=1)
    if clusters is not None and clusters < least:
        holds = f"{holder} label {least - 1}" if read else "there is no smaller number"
        raise ConfigError(f"--clusters {clusters}: {holds}; expected {least} or more")
    return FrameLabels(name, made_by, read, clusters or least) if read else None


def cluster_ids(line: str, samples: int, where: str) -> NDArray[np.uint16]:
    """Return the cluster ids (T,) of `samples` samples at 16 kHz.

    Raises:
        CorpusError: If `line` holds something else, or fewer or more ids than the audio needs.
    """
    from mt4ssl_bench.data.frame_grid import frame_count  # here: it needs torch

    labels = line.split()
    if not all(label.isascii() and label.isdecimal() and int(label) < 1 << 16 for label in labels):
        raise CorpusError(f"{where}: '{line[:40]}'; expected cluster numbers from 0 to 65535")
    seconds = samples / audio.RATE
    least = frame_count(samples)  # what training asks for
    if len(labels) < least or abs(len(labels) / LABEL_RATE - seconds) > DURATION_SLACK:
        expected = f"{LABEL_RATE} a second, {least} at least"
        raise CorpusError(f"{where}: {len(labels)} labels for {seconds:.2f} s; expected {expected}")
    return np.array(labels, dtype=np.uint16)
