"""Published corpora in the layouts that their archives unpack to: each reader yields rows and opens
no audio.

Lhotse's recipes read some of these too, but drop an utterance whose file is missing with a line in
the log; here every utterance that a corpus states is yielded, so that what is missing is counted by
whoever opens the files.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.corpora.audio_files import is_system
from mt4ssl_bench.corpora.rows import DURATION_SLACK
from mt4ssl_bench.data import audio
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)


def root_of(given: Path, corpus: str, *wanted: str) -> Path:
    """Return `given`, or the folder up to two levels inside it, that holds something matching one
    of `wanted`.
    """
    if not given.is_dir():
        raise CorpusError(
            f"{given}: no such folder; --from names {corpus}'s, --download fetches it where that "
            "is free"
        )
    for depth in (".", "*", "*/*"):
        for root in sorted(given.glob(depth)) if depth != "." else [given]:
            if any(map(is_system, root.relative_to(given).parts)):
                continue
            if root.is_dir() and any(any(root.glob(pattern)) for pattern in wanted):
                return root
    found = sorted(path.name for path in given.iterdir())[:5]
    raise CorpusError(
        f"{given}: not {corpus}: expected {' or '.join(wanted)} in it, "
        f"found {', '.join(found) if found else 'an empty folder'}"
    )


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield a text file's lines that are not empty, with their numbers."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: missing; is this half an archive?") from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}: not UTF-8 (byte {error.start}); not as its authors published it"
        ) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (first word, rest) of each line."""
    for number, line in numbered_lines(file):
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise CorpusError(
                f"{file}, line {number}: '{key}' stands alone; is this half an archive?"
            )
        yield key, rest[0]


# samples that the first label stands for: the receptive field of HuBERT's convolutions
WINDOW = 400
LABEL_RATE = 50  # cluster labels per second


def cluster_ids(line: str, samples: int, where: str) -> NDArray[np.uint16]:
    """Return the cluster ids (T,) of `samples` samples at 16 kHz.

    Raises:
        CorpusError: If `line` holds something else, or fewer or more ids than the audio needs.
    """
    labels = line.split()
    if not all(label.isascii() and label.isdecimal() and int(label) < 1 << 16 for label in labels):
        raise CorpusError(f"{where}: '{line[:40]}'; expected cluster numbers from 0 to 65535")
    seconds = samples / audio.RATE
    # the number of frames that training asks for
    frames = max(0, (samples - WINDOW) // (audio.RATE // LABEL_RATE) + 1)
    if len(labels) < frames or abs(len(labels) / LABEL_RATE - seconds) > DURATION_SLACK:
        wanted = f"{LABEL_RATE} a second, {frames} at least"
        raise CorpusError(f"{where}: {len(labels)} labels for {seconds:.2f} s; expected {wanted}")
    return np.array(labels, dtype=np.uint16)
