"""A manifest of cuts on disk: gzip members of 64 lines with an index beside them.

Any cut is read alone. A manifest of another version or of Lhotse, or one that was edited by hand,
is written again with an index.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import written

LINES = 64  # cuts per gzip member: what reading one of them decompresses (about 25 kB)
LEVEL = 5  # of gzip: level 9 takes three times as long for 3 % less
ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')  # as most lines begin: no need to parse all
# what a cut-short or edited file gives
DAMAGE = (EOFError, OSError, ValueError, KeyError, TypeError, zlib.error)

Index = tuple[NDArray[np.float64], NDArray[np.int64]]  # seconds of cuts, starts of members


def write_lines(file: Path, lines: Iterable[tuple[float, bytes]]) -> Index:
    """Write (seconds, JSON) of cuts; the manifest appears first, then its index, the result."""
    durations: list[float] = []
    starts = [0]
    lines = iter(lines)
    with written(file) as out:
        while block := list(islice(lines, LINES)):
            durations += [seconds for seconds, _ in block]
            out.write(gzip.compress(b"\n".join(line for _, line in block) + b"\n", LEVEL, mtime=0))
            starts.append(out.tell())
    index = np.array(durations, dtype=np.float64), np.array(starts, dtype=np.int64)
    with written(_index_file(file)) as out:
        np.savez(out, durations=index[0], starts=index[1])
    return index


def index_of(file: Path) -> Index:
    """Return the index of a manifest, which is made if none fits it."""
    try:
        with np.load(_index_file(file)) as arrays:
            durations, starts = arrays["durations"], arrays["starts"]
        if starts[-1] == file.stat().st_size:
            return durations, starts
    except (*DAMAGE, BadZipFile):
        pass
    with gzip.open(file) as lines:
        timed = ((float(json.loads(line)["duration"]), line.rstrip(b"\n")) for line in lines)
        if not os.access(file.parent, os.W_OK):
            raise CorpusError(
                f"{file}: has no index that fits, and none can be written beside it; open the "
                "corpus once with the rights to write there"
            )
        return write_lines(file, timed)


def ids_in(file: Path | IO[bytes]) -> Iterator[str]:
    """Yield the utterance ids of a manifest in order, without making its cuts."""
    with gzip.open(file) as lines:
        for line in lines:
            head = ID.match(line)
            yield json.loads(head[1]) if head else json.loads(line)["id"]


def _index_file(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".jsonl.gz") + ".index.npz")


def damaged(file: Path, error: Exception) -> CorpusError:
    """Return the error for a manifest that cannot be read."""
    return CorpusError(f"{file}: damaged ({error}); prepare it again into an empty folder")
