"""A split's cuts on disk: gzip members of 64 lines with an index beside them, so that any cut is
read alone.
"""

import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import written

LINES = 64  # cuts per gzip member: what reading one of them decompresses (about 25 kB)
LEVEL = 5  # of gzip: level 9 takes three times as long for 3 % less
DAMAGE = (
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    zlib.error,
)  # what a cut-short or edited file gives


class Lazy(Sequence[Any], ABC):
    """Cuts that are made when they are asked for."""

    @abstractmethod
    def at(self, place: int) -> Any:  # noqa: ANN401 - lhotse ships no types
        """Return the cut at `place`, which is not negative."""

    @overload
    def __getitem__(self, place: int) -> Any: ...  # noqa: ANN401
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.at(range(len(self))[place])


class Cuts(Lazy):
    """The cuts of a `.jsonl.gz` manifest, parsed when they are asked for.

    Only the index is in memory.

    Attributes:
        durations: (N,) seconds of every cut.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        try:
            self.durations, self._starts = _load_index(file) or _make_index(file)
        except DAMAGE as error:
            raise _damaged(file, error) from None

    def __len__(self) -> int:
        return len(self.durations)

    def at(self, place: int) -> Any:  # noqa: ANN401
        """See Lazy.at."""
        first, last = self._starts[place // LINES : place // LINES + 2].tolist()
        try:
            with self.file.open("rb") as file:
                file.seek(first)
                lines = gzip.decompress(file.read(last - first)).split(b"\n")
            return self._parse(lines[place % LINES])
        except (*DAMAGE, IndexError) as error:
            raise _damaged(self.file, error) from None

    def __iter__(self) -> Iterator[Any]:
        try:
            with gzip.open(self.file) as lines:
                for line in lines:
                    yield self._parse(line)
        except DAMAGE as error:
            raise _damaged(self.file, error) from None

    def _parse(self, line: bytes) -> Any:  # noqa: ANN401
        from lhotse.serialization import deserialize_item

        raw = json.loads(line)
        for other in (raw.get("custom") or {}).get("others", {}).values():
            other["source"] = str(self.root / other["source"])
        return deserialize_item(raw).with_recording_path_prefix(self.root)


def write_cuts(file: Path, cuts: Iterable[Any]) -> None:
    """Write cuts (lhotse's, or the dicts that it makes of them) as a manifest with its index, in
    one pass.
    """
    _write(file, (_line(cut if isinstance(cut, dict) else cut.to_dict()) for cut in cuts))


class Joined(Lazy):
    """The cuts of several manifests that last `seconds` or longer, as one sequence.

    Only their indices are in memory.

    Attributes:
        durations: (N,) seconds of every cut that is kept.
        shards: (N,) the shard of each, or None where they lie in files.
        short: how many were left out.
    """

    def __init__(self, parts: Sequence[Sequence[Any]], seconds: float = 0.0) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        durations = np.concatenate([durations_of(part) for part in parts])
        self._places = np.flatnonzero(durations >= seconds)
        self.durations = durations[self._places]
        self.short = len(durations) - len(self._places)
        self.shards = self._shards()

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Any:  # noqa: ANN401
        """See Lazy.at."""
        place = int(self._places[place])
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.parts[part][place - int(self._starts[part])]

    def _shards(self) -> NDArray[np.int64] | None:
        found = [shards_of(part) for part in self.parts]
        kept = [shards for shards in found if shards is not None]
        if not kept:
            return None
        if len(kept) < len(found):
            raise CorpusError(
                "data.corpus: corpora in shards and in files cannot be read together; make shards "
                "of all"
            )
        first = np.cumsum([0, *(int(shards[-1]) + 1 for shards in kept)])
        return np.concatenate([shards + start for shards, start in zip(kept, first, strict=False)])[
            self._places
        ]


def durations_of(cuts: Sequence[Any]) -> NDArray[np.float64]:
    """Return the cuts' durations (N,) in seconds, without parsing any where an index knows them."""
    known: NDArray[np.float64] | None = getattr(cuts, "durations", None)
    return np.array([cut.duration for cut in cuts], dtype=np.float64) if known is None else known


def shards_of(cuts: Sequence[Any]) -> NDArray[np.int64] | None:
    """Return the number of the shard (N,) that each cut lies in, or None for cuts in files."""
    shards: NDArray[np.int64] | None = getattr(cuts, "shards", None)
    return shards


def _line(cut: dict[str, Any]) -> tuple[float, bytes]:
    return float(cut["duration"]), json.dumps(cut, ensure_ascii=False).encode()


def _write(
    file: Path, lines: Iterable[tuple[float, bytes]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Write (duration, JSON) pairs.

    The manifest appears first, and an index that does not fit it is made again.
    """
    durations: list[float] = []
    starts = [0]
    members = iter(lines)
    with written(file) as out:
        while block := list(islice(members, LINES)):
            durations += [seconds for seconds, _ in block]
            out.write(gzip.compress(b"\n".join(line for _, line in block) + b"\n", LEVEL, mtime=0))
            starts.append(out.tell())
    arrays = np.array(durations, dtype=np.float64), np.array(starts, dtype=np.int64)
    with written(_index_of(file)) as out:
        np.savez(out, durations=arrays[0], starts=arrays[1])
    return arrays


def _index_of(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(".jsonl.gz") + ".index.npz")


def _load_index(file: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return the index beside a manifest, or None when there is none that fits it."""
    try:
        with np.load(_index_of(file)) as arrays:
            durations, starts = arrays["durations"], arrays["starts"]
    except (*DAMAGE, BadZipFile):
        return None
    return (durations, starts) if starts[-1] == file.stat().st_size else None


def _make_index(file: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Write the manifest of another version or of lhotse, or one edited by hand, again with an
    index.
    """
    with gzip.open(file) as lines:
        return _write(
            file, ((float(json.loads(line)["duration"]), line.rstrip(b"\n")) for line in lines)
        )


def _damaged(file: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{file}: damaged ({error}); prepare it again into an empty folder")
