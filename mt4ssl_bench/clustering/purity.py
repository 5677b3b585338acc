"""Cluster quality against phones: HuBERT's phone purity, cluster purity and PNMI.

The measures need time-aligned phones; alignments are never estimated.

Shapes: T frames, V clusters, P phones.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.alignment import Alignment
from mt4ssl_bench.data.audio import RATE
from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.data.frame_grid import RECEPTIVE_FIELD, STRIDE
from mt4ssl_bench.data.label_store import LabelStore
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)


def measure(store: LabelStore, alignment: Alignment) -> dict[str, float]:
    """Return purity() over the frames that the alignment covers, and their number.

    Raises:
        CorpusError: If the alignment covers none.
    """
    aligned = dict(_in_store(store, alignment))
    symbols = sorted({phone for segments in aligned.values() for _, _, phone in segments})
    counts = np.zeros((store.info.clusters, len(symbols)), dtype=np.int64)
    numbers = {phone: i for i, phone in enumerate(symbols)}
    for name, segments in aligned.items():
        labels = store.all_of(name)
        phones = at_frames(segments, numbers, len(labels))
        np.add.at(counts, (labels[phones >= 0], phones[phones >= 0]), 1)
    if not counts.sum():
        raise CorpusError(
            "--alignment: names none of the labeled utterances; its ids must be the corpus's"
        )
    covered = {"aligned_utterances": float(len(aligned)), "aligned_frames": float(counts.sum())}
    return {**covered, **purity(counts)}


def _in_store(store: LabelStore, alignment: Alignment) -> Iterator[tuple[str, list[Turn]]]:
    """Yield the aligned utterances in the store; log how many are not in it."""
    unknown = []
    for name, segments in alignment.segments.items():
        short = alignment.short_names.get(name, name)
        if name in store or short in store:
            yield (name if name in store else short), segments
        else:
            unknown.append(name)
    if unknown:
        LOGGER.warning(
            "--alignment: %d of its %d utterances are not among the labeled ones; the first is "
            "'%s'",
            len(unknown),
            len(alignment.segments),
            unknown[0],
        )


def at_frames(
    segments: Sequence[Turn], numbers: Mapping[str, int], num_frames: int, stride: int = STRIDE
) -> NDArray[np.int64]:
    """Return the phone's number (T,) at the centre of each frame, or -1 without a segment there.

    Frames of another stride than that of labels have their centre in the middle of their stride.
    """
    centre = RECEPTIVE_FIELD / 2 if stride == STRIDE else stride / 2
    centres = (np.arange(num_frames) * stride + centre) / RATE
    phones = np.full(num_frames, -1, dtype=np.int64)
    for start, end, phone in segments:
        phones[(centres >= start) & (centres < end)] = numbers[phone]
    return phones


def purity(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return HuBERT's measures of joint counts (V, P).

    Source: Hsu et al. 2021, section IV-A (arXiv 2106.07447).

    Returns:
        phone_purity: Share of frames whose phone is the most frequent one of their cluster.
        cluster_purity: Share of frames whose cluster is the most frequent one of their phone.
        pnmi: Mutual information of phones and clusters over the entropy of phones.
    """
    joint = counts / counts.sum()
    cluster, phone = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / (cluster * phone)[there])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return {
        "phone_purity": float(joint.max(1).sum()),
        "cluster_purity": float(joint.max(0).sum()),
        "pnmi": float(information / entropy) if entropy > 0 else 0.0,
    }
