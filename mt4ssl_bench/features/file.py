"""Files of features: written utterance by utterance, memory-mapped, verified where they are read.

While a pass runs, `x.bin` grows beside its journal: a killed pass continues after the last line
whose values are all there. A file is finished once it has its index. An utterance's checksum is
verified when it is first read, which costs no reading of its own; to verify a store of 300 GB
before each run would.

A file holds (T, L, W); encode() and decode() turn it from and to features (L, T, D).

Shapes: L hidden states, B batch, T frames, D dimension, K crops, W bytes of a stored vector.
"""

import itertools
import json
import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.features.forward_pass import Named, Values
from mt4ssl_bench.features.index import Header, Line, as_json, read_index, write_index
from mt4ssl_bench.features.precision import Bytes, Precision, decode, encode

LOGGER = logging.getLogger(__name__)


class FeatureSet(ABC):
    """Features of a split by utterance id; `layers` and `dim` are the upstream's."""

    layers: int
    dim: int
    identity: str = "live"  # of the values, if they are stored

    @abstractmethod
    def rows(self, names: Sequence[str]) -> list[Values]:
        """Return each utterance's features: (L, T, D), or (L, K, D) for means of crops."""

    @abstractmethod
    def count(self, name: str) -> int:
        """Return the number of an utterance's frames or crops, without reading them."""

    def at(self, epoch: int) -> "FeatureSet":  # noqa: ARG002 - stored features have no epoch
        """Return the features that an epoch of training reads."""
        return self

    def get(self, name: str) -> Values:
        """Return an utterance's features."""
        return self.rows([name])[0]

    def batch(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return several utterances as fp32 (L, B, T, D), zero-padded, and their frames (B,)."""
        rows = self.rows(names)
        lengths = torch.tensor([row.shape[1] for row in rows])
        padded = torch.zeros(self.layers, len(rows), int(lengths.max()), self.dim)
        for b, row in enumerate(rows):
            padded[:, b, : row.shape[1]] = torch.from_numpy(row)
        return padded, lengths


class JointFeatures(FeatureSet):
    """The features of several splits as one set; `parts` are the sets by utterance id."""

    def __init__(self, parts: Mapping[str, FeatureSet]) -> None:
        first = next(iter(parts.values()))
        self.layers, self.dim, self._parts = first.layers, first.dim, parts

    def rows(self, names: Sequence[str]) -> list[Values]:
        """See FeatureSet.rows."""
        found: dict[str, Values] = {}
        for part in {id(self._parts[name]): self._parts[name] for name in names}.values():
            own = [name for name in names if self._parts[name] is part]
            found.update(zip(own, part.rows(own), strict=True))
        return [found[name] for name in names]

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        return self._parts[name].count(name)


class StoredFeatures(FeatureSet):
    """A finished file of features, memory-mapped.

    Args:
        file: The values.
        remake: Computes an utterance's features again if they are damaged.

    Raises:
        CheckpointError: If index and values do not belong together.
    """

    def __init__(self, file: Path, remake: Callable[[str], Values]) -> None:
        self.file, self._remake = file, remake
        self.header, lines = read_index(file)
        self._lines = {line.name: line for line in lines}
        ends = list(itertools.accumulate(line.rows for line in lines))
        self._ends = {line.name: end for line, end in zip(lines, ends, strict=True)}
        self.layers, self.dim = self.header.layers, self.header.dim
        checksums = sorted((line.name, line.checksum) for line in lines)
        self.identity = f"{zlib.crc32(repr(checksums).encode()):08x}"
        self._verified: set[str] = set()
        self._stored = self._map(max(ends, default=0))

    def __len__(self) -> int:
        return len(self._lines)

    def rows(self, names: Sequence[str]) -> list[Values]:
        """See FeatureSet.rows."""
        return [decode(self._read(name), self.header.precision) for name in names]

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        return self._lines[name].rows

    def stored(self) -> Iterator[tuple[str, Bytes]]:
        """Yield each utterance's id and stored bytes (T, L, W), in the order of the file."""
        for name in list(self._lines):
            yield name, self._read(name)

    def _read(self, name: str) -> Bytes:
        line, end = self._lines[name], self._ends[name]
        stored = self._stored[end - line.rows : end]
        if name not in self._verified:
            if zlib.crc32(stored.data) != line.checksum:
                stored = self._mend(name)
            self._verified.add(name)
        return stored

    def _mend(self, name: str) -> Bytes:
        """Compute an utterance again and write it where it was damaged."""
        LOGGER.warning(
            "features %s: utterance '%s' is damaged on disk; it is computed again", self.file, name
        )
        rows, end = self._lines[name].rows, self._ends[name]
        stored = encode(self._remake(name), self.header.precision)
        if len(stored) != rows:
            raise CheckpointError(
                f"features {self.file}: utterance '{name}' has {len(stored)} rows now, not "
                f"{rows}: its audio has changed; prepare the corpus again"
            )
        with self.file.open("r+b") as out:
            out.seek((end - rows) * self.header.row_bytes)
            out.write(stored.data)
        self._lines[name] = Line(name, rows, zlib.crc32(stored.data))
        write_index(self.file, self.header, self._lines.values())
        self._stored = self._map(len(self._stored))
        return self._stored[end - rows : end]

    def _map(self, rows: int) -> Bytes:
        """Return the values (rows, L, W) of the file."""
        shape = (rows, self.layers, self.header.row_bytes // self.layers)
        try:
            if self.file.stat().st_size != rows * self.header.row_bytes:
                raise ValueError(  # noqa: TRY301 - handled as a file that cannot be mapped
                    f"{self.file.stat().st_size} bytes, not {rows * self.header.row_bytes}"
                )
            # copy on write: torch wants arrays that may be written, and nothing written here
            # reaches the file
            return np.memmap(self.file, dtype=np.uint8, mode="c", shape=shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"features {self.file}: damaged ({error})") from None


class Writer:
    """Appends utterances to a file of features; `done` are those of an interrupted pass."""

    def __init__(self, file: Path, header: Header) -> None:
        self.file, self.header = file, header
        self.journal = file.with_suffix(".index.partial")
        self.lines = list(self._recover())
        self.done = {line.name for line in self.lines}

    def _recover(self) -> Iterator[Line]:
        """Yield the journal's lines up to the first whose values are not all there, unchanged."""
        try:
            head, *lines = self.journal.read_text(encoding="utf-8").splitlines()
            stored, wanted = json.loads(head), asdict(self.header)
            if any(stored[key] != wanted[key] for key in ("format", "precision", "layers", "dim")):
                return
            with self.file.open("rb") as values:
                for text in lines:
                    line = Line(*json.loads(text))
                    if zlib.crc32(values.read(line.rows * self.header.row_bytes)) != line.checksum:
                        return
                    yield line
        except (OSError, ValueError, KeyError, TypeError):
            return

    def write(self, batches: Iterable[Sequence[Named]]) -> None:
        """Append every batch, then write the index."""
        precision = self.header.precision

        def encoded(batch: Sequence[Named]) -> Iterator[tuple[str, Bytes]]:
            for name, features in batch:
                yield name, encode_named(name, features, precision)

        self._append(map(encoded, batches))

    def join(self, shards: Iterable[Path], remake: Callable[[str], Values]) -> None:
        """Append other files of such features, delete their values, then write the index.

        Args:
            shards: The files, finished.
            remake: Computes an utterance's features again if they are damaged.
        """

        def moved() -> Iterator[Iterator[tuple[str, Bytes]]]:
            for shard in shards:
                yield StoredFeatures(shard, remake).stored()
                shard.unlink()  # its index stays: the shard was made

        self._append(moved())

    def _append(self, batches: Iterable[Iterable[tuple[str, Bytes]]]) -> None:
        end = sum(line.rows for line in self.lines) * self.header.row_bytes
        self.file.touch()
        with self.file.open("r+b") as values, self.journal.open("w", encoding="utf-8") as journal:
            values.truncate(end)
            values.seek(end)
            journal.write(as_json(asdict(self.header)) + "".join(map(as_json, self.lines)))
            for batch in batches:
                lines = []
                for name, stored in batch:
                    values.write(stored.data)
                    lines.append(Line(name, len(stored), zlib.crc32(stored.data)))
                values.flush()  # before the journal: a line means that its values are there
                journal.write("".join(map(as_json, lines)))
                journal.flush()
                self.lines += lines
        write_index(self.file, self.header, self.lines)
        self.journal.unlink()


def encode_named(name: str, values: Values, precision: Precision) -> Bytes:
    """Return encode() of the features of the utterance called `name`.

    Raises:
        UpstreamError: If fp16 cannot hold a value.
    """
    try:
        return encode(values, precision)
    except OverflowError:
        peaks = np.abs(values).max(axis=(1, 2))  # of each hidden state
        raise UpstreamError(
            f"features of '{name}' are too large for fp16 (hidden state {peaks.argmax()} of "
            f"0-{len(peaks) - 1} reaches {peaks.max():.3g}, fp16 holds 65504); set "
            "store.precision=bf16 or fp32"
        ) from None
