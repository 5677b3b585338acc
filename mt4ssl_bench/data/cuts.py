"""A split's cuts, parsed when they are asked for; see cut_files.py for how they lie on disk."""

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast, overload

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cut_files import DAMAGE, LINES, damaged, ids_in, index_of, write_lines
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json


class Lazy(Sequence[Cut], ABC):
    """Cuts that are made when they are asked for."""

    @abstractmethod
    def at(self, place: int) -> Cut:
        """Return the cut at `place`, which is not negative."""

    @overload
    def __getitem__(self, place: int) -> Cut: ...
    @overload
    def __getitem__(self, place: slice) -> list[Cut]: ...
    def __getitem__(self, place: int | slice) -> Cut | list[Cut]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.at(range(len(self))[place])


class Cuts(Lazy):
    """The cuts of a `.jsonl.gz` manifest, of which only the index is in memory.

    Attributes:
        durations: (N,) seconds of every cut.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        try:
            self.durations, self._starts = index_of(file)
        except DAMAGE as error:
            raise damaged(file, error) from None

    def __len__(self) -> int:
        return len(self.durations)

    def at(self, place: int) -> Cut:
        """See Lazy.at."""
        first, last = self._starts[place // LINES : place // LINES + 2].tolist()
        try:
            with self.file.open("rb") as file:
                file.seek(first)
                lines = gzip.decompress(file.read(last - first)).split(b"\n")
            return self._parse(lines[place % LINES])
        except (*DAMAGE, IndexError) as error:
            raise damaged(self.file, error) from None

    def __iter__(self) -> Iterator[Cut]:
        try:
            with gzip.open(self.file) as lines:
                for line in lines:
                    yield self._parse(line)
        except DAMAGE as error:
            raise damaged(self.file, error) from None

    def ids(self) -> Iterator[str]:
        """Yield the utterance ids in order, without making the cuts."""
        try:
            yield from ids_in(self.file)
        except DAMAGE as error:
            raise damaged(self.file, error) from None

    def _parse(self, line: bytes) -> Cut:
        from lhotse.serialization import deserialize_item

        raw = json.loads(line)
        for other in (raw.get("custom") or {}).get("others", {}).values():
            other["source"] = str(self.root / other["source"])
        cut: Cut = deserialize_item(raw).with_recording_path_prefix(self.root)
        return cut


def write_cuts(file: Path, cuts: Iterable[Cut | Mapping[str, Json]]) -> None:
    """Write cuts, or Lhotse's dicts of them, as a manifest with its index, in one pass."""
    raws = (cut if isinstance(cut, Mapping) else cut.to_dict() for cut in cuts)
    write_lines(file, map(_line, raws))


def _line(raw: Mapping[str, Json]) -> tuple[float, bytes]:
    return cast("float", raw["duration"]), json.dumps(raw, ensure_ascii=False).encode()


class Joined(Lazy):
    """The cuts of several splits that last `seconds` or longer, as one sequence.

    Attributes:
        durations: (N,) seconds of every cut that is kept.
        shards: (N,) the shard of each, or None where they lie in files.
        short: how many were left out.
    """

    def __init__(self, parts: Sequence[Sequence[Cut]], seconds: float = 0.0) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        durations = np.concatenate([durations_of(part) for part in parts])
        self._places = np.flatnonzero(durations >= seconds)
        self.durations = durations[self._places]
        self.short = len(durations) - len(self._places)
        self.shards = self._shards()

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> Cut:
        """See Lazy.at."""
        place = int(self._places[place])
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self.parts[part][place - int(self._starts[part])]

    def _shards(self) -> NDArray[np.int64] | None:
        numbers = [shards for part in self.parts if (shards := shards_of(part)) is not None]
        if not numbers:
            return None
        if len(numbers) < len(self.parts):
            raise CorpusError(
                "data.corpus: corpora in shards and in files cannot be read together; make shards "
                "of all"
            )
        first = np.cumsum([0, *(int(shards[-1]) + 1 for shards in numbers)])
        shifted = [shards + start for shards, start in zip(numbers, first, strict=False)]
        return np.concatenate(shifted)[self._places]


def durations_of(cuts: Sequence[Cut]) -> NDArray[np.float64]:
    """Return the cuts' durations (N,) in seconds, without parsing any where an index knows them."""
    known: NDArray[np.float64] | None = getattr(cuts, "durations", None)
    return np.array([cut.duration for cut in cuts], dtype=np.float64) if known is None else known


def shards_of(cuts: Sequence[Cut]) -> NDArray[np.int64] | None:
    """Return the number of the shard (N,) that each cut lies in, or None for cuts in files."""
    shards: NDArray[np.int64] | None = getattr(cuts, "shards", None)
    return shards
