"""A split in Lhotse Shar, read from disk or any URL.

Shar is tar files of cuts with their audio and labels, 200 each by default.
"""

import gzip
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO
from zipfile import BadZipFile

import numpy as np

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cut_files import DAMAGE, ids_in
from mt4ssl_bench.data.cuts import Lazy
from mt4ssl_bench.data.epoch_order import STREAMS, WINDOW
from mt4ssl_bench.data.remote import fetch
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
LABELS = "labels"  # the field of a cut that carries its labels


class Shards(Lazy):
    """One split's cuts in shards, each with its audio in memory.

    A shard is fetched when one of its cuts is asked for.

    Attributes:
        durations: (N,) seconds of every cut.
        shards: (N,) the number of the shard that it lies in.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        index = index_of(where)
        try:
            with fetch(index) as file, np.load(file) as arrays:
                self.durations, self._bytes = arrays["durations"], arrays["bytes"]
                self._starts = np.concatenate([[0], np.cumsum(arrays["counts"])])
        except (*DAMAGE, BadZipFile, AttributeError) as error:
            raise CorpusError(
                f"{index}: missing or damaged ({error}); make the shards again"
            ) from None
        self.shards = np.repeat(np.arange(len(self._bytes)), np.diff(self._starts))

    def __len__(self) -> int:
        return len(self.durations)

    def at(self, place: int) -> Cut:
        """See Lazy.at."""
        number = int(self.shards[place])
        with self._naming(number):
            shard = _shard(self.where, number, tuple(self._bytes[number].tolist()))
            return shard.cut(place - int(self._starts[number]))

    def ids(self) -> Iterator[str]:
        """Yield the utterance ids in order; fetches the manifest of every shard."""
        for number in np.unique(self.shards).tolist():
            with self._naming(number), fetch(f"{self.where}/cuts.{number:06d}.jsonl.gz") as file:
                yield from ids_in(file)

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Name the shard in the error for what cannot be read."""
        try:
            yield
        except (*DAMAGE, IndexError, tarfile.TarError) as error:
            raise CorpusError(
                f"{self.where}, shard {number:06d}: damaged ({error}); copy it or make the shards "
                "again"
            ) from None

    def __iter__(self) -> Iterator[Cut]:
        return (self[place] for place in range(len(self)))


def index_of(where: str) -> str:
    """Return the path or URL of the index of the split at `where`.

    It lies beside the split's folder, because Lhotse reads all files in that.
    """
    return f"{where}.index.npz"


@dataclass(frozen=True)
class Shard:
    """An opened shard: the lines of its cuts, and of each tar file the places of its members."""

    lines: list[bytes]
    tars: Mapping[
        str, tuple[IO[bytes], list[tuple[str, int, int]]]
    ]  # field -> file, (name, offset, bytes) of members

    def cut(self, number: int) -> Cut:
        """Return a cut with its audio and labels."""
        from lhotse.serialization import deserialize_item
        from lhotse.shar.utils import fill_shar_placeholder

        cut: Cut = deserialize_item(json.loads(self.lines[number]))
        for field, (file, members) in self.tars.items():
            (name, *data), (_, *meta) = members[
                2 * number : 2 * number + 2
            ]  # the data, then what it is
            if Path(name).with_suffix("").as_posix() != cut.id:
                raise CorpusError(
                    f"{file.name}: '{name}' where '{cut.id}' should be; make the shards again"
                )
            manifest = deserialize_item(json.loads(_read_at(file, *meta)))
            fill_shar_placeholder(manifest, _read_at(file, *data), name)
            setattr(cut, field, manifest)
        return cut


@lru_cache(maxsize=STREAMS * WINDOW + STREAMS)  # what the order of an epoch has open at a time
def _shard(where: str, number: int, sizes: tuple[int, ...]) -> Shard:
    fields = ("recording", LABELS)[: len(sizes)]
    with fetch(f"{where}/cuts.{number:06d}.jsonl.gz") as file:
        lines = gzip.decompress(file.read()).splitlines()
    tars = {}
    for field, size in zip(fields, sizes, strict=True):
        file = fetch(f"{where}/{field}.{number:06d}.tar", size)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            tars[field] = (file, [(member.name, member.offset_data, member.size) for member in tar])
    return Shard(lines, tars)


def _read_at(file: IO[bytes], offset: int, size: int) -> bytes:
    return os.pread(
        file.fileno(), size, offset
    )  # leaves the position alone: processes may share the file
