"""How well clusters know phones: HuBERT's three measures, from an alignment in time and never from a guessed one.

Shapes: T frames, V clusters, P phones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.audio import RATE
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.upstream.frontend import RECEPTIVE_FIELD, STRIDE
from mt4ssl_bench.upstream.labels import LabelStore

Segment = tuple[float, float, str]  # start and end in seconds, phone


def read_ctm(file: Path) -> dict[str, list[Segment]]:
    """Return the segments by utterance id of a CTM file, as Kaldi writes: "utterance channel start duration phone".

    Raises CorpusError naming the line that is none.
    """
    found: dict[str, list[Segment]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"--alignment {file}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells or line.startswith(";;"):
            continue
        try:
            name, _, start, duration, phone = cells[:5]
            segment = float(start), float(start) + float(duration), phone
        except ValueError:
            raise CorpusError(
                f"--alignment {file}, line {number}: '{line}' is not 'utterance channel start duration phone'"
            ) from None
        found.setdefault(name, []).append(segment)
    return found


def measure(store: LabelStore, alignment: Mapping[str, Sequence[Segment]]) -> dict[str, float]:
    """Return purity() of the store's frames that the alignment covers, and how many they are.

    Raises CorpusError when it covers none of them.
    """
    symbols = sorted({phone for segments in alignment.values() for _, _, phone in segments})
    counts = np.zeros((store.info.clusters, len(symbols)), dtype=np.int64)
    numbers = {phone: i for i, phone in enumerate(symbols)}
    for name in filter(store.__contains__, alignment):
        labels = store.all_of(name)
        phones = at_frames(alignment[name], numbers, len(labels))
        np.add.at(counts, (labels[phones >= 0], phones[phones >= 0]), 1)
    if not counts.sum():
        raise CorpusError(
            "--alignment: names none of the labelled utterances; its ids must be the corpus's"
        )
    return {"aligned_frames": float(counts.sum()), **purity(counts)}


def at_frames(
    segments: Sequence[Segment], numbers: Mapping[str, int], frames: int
) -> NDArray[np.int64]:
    """Return the phone's number (T,) at the centre of each frame's 25 ms, -1 where no segment lies."""
    centres = (np.arange(frames) * STRIDE + RECEPTIVE_FIELD / 2) / RATE
    phones = np.full(frames, -1, dtype=np.int64)
    for start, end, phone in segments:
        phones[(centres >= start) & (centres < end)] = numbers[phone]
    return phones


def purity(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return HuBERT's measures of joint counts (V, P) (Hsu et al. 2021, section IV-A, arXiv 2106.07447).

    phone_purity: the share of frames whose phone is their cluster's commonest. cluster_purity: the share whose cluster
    is their phone's commonest. pnmi: the mutual information of both over the entropy of phones.
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
