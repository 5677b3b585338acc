"""Stored or live: the time that features cost either way, measured on a few seconds of audio."""

import bisect
import itertools
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.features.file import StoredFeatures, Writer
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.features.index import Header
from mt4ssl_bench.features.live import LiveFeatures

LOGGER = logging.getLogger(__name__)
MEASURED = 2**30  # bytes; smaller features are stored without measuring what costs less time
PROBE_SECONDS = 20.0  # of audio
# stored features serve other rows, too: to be computed on the fly, they must cost this much less
MARGIN = 0.8


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Seconds that a second of audio takes: to compute it (live), to write it, and to read it."""

    live: float
    write: float
    read: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that the features of a split cost in all readings, stored and live."""

    stored: float
    live: float
    readings: float

    @classmethod
    def of(cls, speeds: Speeds, seconds: float, readings: float) -> "Costs":
        """Return the costs of `seconds` of audio that are read so often."""
        once = speeds.live + speeds.write
        return cls(
            stored=seconds * (once + readings * speeds.read),
            live=seconds * readings * speeds.live,
            readings=readings,
        )

    @property
    def live_is_cheaper(self) -> bool:
        """Whether the features are better computed on the fly."""
        return self.live < MARGIN * self.stored

    def __str__(self) -> str:
        return (
            f"{self.readings:.3g} readings take about {self.live / 60:.3g} min on the fly, "
            f"{self.stored / 60:.3g} min stored"
        )


def live_is_cheaper(
    forward: Pass, cuts: Sequence[Cut], header: Header, root: Path, readings: float
) -> bool:
    """Return whether features cost less time on the fly; the log says why.

    Args:
        forward: Computes them.
        cuts: Of the split.
        header: Of the features.
        root: Folder of the store.
        readings: How often the features are read; infinite: they are stored in any case.
    """
    need = forward.rows(cuts) * header.row_bytes
    if math.isinf(readings) or need < MEASURED:
        return False
    root.mkdir(parents=True, exist_ok=True)
    speeds = measure(forward, cuts, header, root, cold=need > memory() / 2)
    costs = Costs.of(speeds, forward.seconds(cuts), readings)
    LOGGER.info(
        "%s: features of %s are %s: %s",
        header.split,
        header.upstream,
        "computed on the fly" if costs.live_is_cheaper else "stored",
        costs,
    )
    return costs.live_is_cheaper


def measure(
    forward: Pass, cuts: Sequence[Cut], header: Header, root: Path, *, cold: bool
) -> Speeds:
    """Return the speeds of a pass and of the disk of `root`, on the first PROBE_SECONDS of cuts.

    Args:
        forward: The pass.
        cuts: Of the split.
        header: Of the features; gives their precision.
        root: A folder on the disk of the store, which keeps nothing.
        cold: Read from the disk and not from memory: so many features do not fit there.
    """
    ends = list(itertools.accumulate(cut.duration for cut in cuts))
    probe = list(cuts[: bisect.bisect_left(ends, PROBE_SECONDS) + 1])
    seconds, names = forward.seconds(probe), [cut.id for cut in probe]
    live = LiveFeatures(forward, probe, header.precision)
    live.rows(names[:1])  # warms up
    computed = list(forward.tensors(probe))

    def read_live() -> None:
        for _ in live.stream([names], forward.device):
            pass

    # hidden, and one folder deeper than entries are
    with tempfile.TemporaryDirectory(dir=root, prefix=".measure-") as folder:
        file = Path(folder) / "probe" / "probe.bin"
        file.parent.mkdir()

        def write() -> None:
            Writer(file, header).write(computed)
            with file.open("rb") as written:
                os.fsync(written.fileno())
                if cold and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        def read() -> None:
            stored = StoredFeatures(file, live.get)
            for _ in stored.stream([names], forward.device):
                pass

        spent = [_timed(each) / seconds for each in (read_live, write, read)]
    return Speeds(live=spent[0], write=spent[1], read=spent[2])


def memory() -> float:
    """Return the bytes of this machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _timed(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
