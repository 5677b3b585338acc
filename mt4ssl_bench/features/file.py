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
import threading
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from mt4ssl_bench.device import host_memory, moved
from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.features.forward_pass import Values
from mt4ssl_bench.features.index import Header, Line, as_json, read_index, write_index
from mt4ssl_bench.features.precision import Bytes, Precision, decode, decoded, encode
from mt4ssl_bench.features.read_ahead import read_ahead
from mt4ssl_bench.files import write_text

LOGGER = logging.getLogger(__name__)
WRITERS = 4  # threads that write utterances while the next batch is computed
READERS = 2  # batches read ahead for a GPU, each by a thread
Draw = Callable[[int, int], Tensor]  # see FeatureSet.stream


class FeatureSet(ABC):
    """Features of a split by utterance id; `layers` and `dim` are the upstream's."""

    layers: int
    dim: int
    identity: str = "live"  # of the values, if they are stored

    @abstractmethod
    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        """Return each utterance's features: (L, T, D), or (L, K, D) for means of crops.

        With `crops`, means are only of the crop of this number: (L, 1, D).
        """

    @abstractmethod
    def count(self, name: str) -> int:
        """Return the number of an utterance's frames or crops, without reading them."""

    def at(self, epoch: int) -> "FeatureSet":  # noqa: ARG002 - stored features have no epoch
        """Return the features that an epoch of training reads."""
        return self

    def get(self, name: str) -> Values:
        """Return an utterance's features."""
        return self.rows([name])[0]

    def batch(
        self, names: Sequence[str], crops: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return several utterances as fp32 (L, B, T, D), zero-padded, and their frames (B,).

        Args:
            names: Of the utterances.
            crops: The number of the only crop that is read of each; None: all rows.
        """
        return padded([torch.from_numpy(row) for row in self.rows(names, crops)])

    def stream(
        self, batches: Iterable[Sequence[str]], device: str, draw: Draw | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batch() of each list of names on the device; lengths stay on the host.

        For an accelerator, a thread reads ahead. A CPU computes meanwhile what it would read.

        Args:
            batches: Names of each batch.
            device: Torch device.
            draw: Utterances, crops of each -> their numbers (B,), called where a batch is taken:
                only these are read.
        """
        if draw:
            for names in batches:
                x, lengths = self.batch(names, draw(len(names), self.count(names[0])).tolist())
                yield moved(x, device), lengths
        elif torch.device(device).type == "cpu":
            yield from map(self.batch, batches)
        else:
            for _, ((x, lengths),) in read_ahead(([names] for names in batches), self.batch, 1):
                yield moved(x, device), lengths


class JointFeatures(FeatureSet):
    """The features of several splits as one set; `parts` are the sets by utterance id."""

    def __init__(self, parts: Mapping[str, FeatureSet]) -> None:
        first = next(iter(parts.values()))
        self.layers, self.dim, self._parts = first.layers, first.dim, parts

    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        """See FeatureSet.rows."""
        found: dict[int, Values] = {}
        for part in {id(self._parts[name]): self._parts[name] for name in names}.values():
            own = [number for number, name in enumerate(names) if self._parts[name] is part]
            chosen = crops and [crops[number] for number in own]
            found.update(zip(own, part.rows([names[n] for n in own], chosen), strict=True))
        return [found[number] for number in range(len(names))]

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        return self._parts[name].count(name)


class StoredFeatures(FeatureSet):
    """A finished file of features, memory-mapped.

    Args:
        file: The values.
        remake: Computes an utterance's features again if they are damaged.
        names: Utterances that must be there.

    Raises:
        CheckpointError: If index and values do not belong together, or an utterance is missing.
    """

    def __init__(
        self, file: Path, remake: Callable[[str], Values], names: Iterable[str] = ()
    ) -> None:
        self.file, self._remake = file, remake
        self.header, lines = read_index(file)
        self._lines = {line.name: line for line in lines}
        if missing := set(names) - self._lines.keys():
            raise CheckpointError(f"features {file}: {len(missing)} utterances are missing")
        ends = list(itertools.accumulate(line.rows for line in lines))
        self._ends = {line.name: end for line, end in zip(lines, ends, strict=True)}
        self.layers, self.dim = self.header.layers, self.header.dim
        checksums = sorted((line.name, line.checksum) for line in lines)
        self.identity = f"{zlib.crc32(repr(checksums).encode()):08x}"
        self._verified: set[str] = set()
        self._mending = threading.Lock()
        self._stored = self._map(max(ends, default=0))

    def __len__(self) -> int:
        return len(self._lines)

    def rows(self, names: Sequence[str], crops: Sequence[int] | None = None) -> list[Values]:
        """See FeatureSet.rows."""
        stored = [self._read(name) for name in names]
        if crops is not None:
            stored = [row[crop : crop + 1] for row, crop in zip(stored, crops, strict=True)]
        return [decode(row, self.header.precision) for row in stored]

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        return self._lines[name].rows

    def stream(
        self, batches: Iterable[Sequence[str]], device: str, draw: Draw | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See FeatureSet.stream; a GPU is given the bytes of whole utterances."""
        if draw or torch.device(device).type != "cuda":
            yield from super().stream(batches, device, draw)
            return
        read = partial(self._bytes, device=device)
        for _, ((stored, lengths),) in read_ahead(([names] for names in batches), read, READERS):
            layers = moved(stored, device).permute(2, 0, 1, 3).contiguous()  # (L, B, T, W)
            yield decoded(layers, self.header.precision), lengths

    def _bytes(self, names: Sequence[str], device: str) -> tuple[Tensor, Tensor]:
        """Return the bytes (B, T, L, W) of utterances, zero-padded, and their frames (B,).

        Both are on the host, whatever the device that they are for.
        """
        rows = [torch.from_numpy(self._read(name)) for name in names]
        counts = [len(row) for row in rows]
        shape = len(rows), max(counts), *rows[0].shape[1:]
        x = host_memory(shape, torch.uint8, device)
        for target, row in zip(x, rows, strict=True):
            target[: len(row)] = row
            target[len(row) :] = 0
        return x, torch.tensor(counts)

    def stored(self) -> Iterator[tuple[str, Bytes]]:
        """Yield each utterance's id and stored bytes (T, L, W), in the order of the file."""
        for name in list(self._lines):
            yield name, self._read(name)

    def _read(self, name: str) -> Bytes:
        if name not in self._verified:
            if not self._sound(name):
                with self._mending:  # of several threads that read it, one mends it
                    if not self._sound(name):
                        self._mend(name)
            self._verified.add(name)
        return self._values(name)

    def _values(self, name: str) -> Bytes:
        end = self._ends[name]
        return self._stored[end - self._lines[name].rows : end]

    def _sound(self, name: str) -> bool:
        return zlib.crc32(self._values(name).data) == self._lines[name].checksum

    def _mend(self, name: str) -> None:
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

    def _map(self, rows: int) -> Bytes:
        """Return the values (rows, L, W) of the file."""
        shape = (rows, self.layers, self.header.row_bytes // self.layers)
        try:
            if self.file.stat().st_size != rows * self.header.row_bytes:
                raise ValueError(  # noqa: TRY301 - handled as a file that cannot be mapped
                    f"{self.file.stat().st_size} bytes, not {rows * self.header.row_bytes}"
                )
            if not rows:  # no utterance has a frame; an empty file cannot be mapped
                return np.empty(shape, np.uint8)
            # copy on write: torch wants arrays that may be written, and nothing written here
            # reaches the file
            return np.memmap(self.file, dtype=np.uint8, mode="c", shape=shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"features {self.file}: damaged ({error})") from None


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return features (L, T_b, D) as (L, B, T, D) on their device, zero-padded, and T_b (B,)."""
    counts = [row.shape[1] for row in rows]
    layers, _, dim = rows[0].shape
    x = rows[0].new_zeros(layers, len(rows), max(counts), dim)
    for b, row in enumerate(rows):
        x[:, b, : row.shape[1]] = row
    return x, torch.tensor(counts)


class Writer:
    """Appends utterances to a file of features, behind those of an interrupted pass."""

    def __init__(self, file: Path, header: Header) -> None:
        self.file, self.header = file, header
        self.journal = file.with_suffix(".index.partial")
        self.lines = list(self._recover())

    @property
    def done(self) -> set[str]:
        """The utterances that are there."""
        return {line.name for line in self.lines}

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

    def write(self, batches: Iterable[Sequence[tuple[str, Values | Tensor]]]) -> None:
        """Append every batch, then write the index."""
        precision = self.header.precision

        def encoded(batch: Sequence[tuple[str, Values | Tensor]]) -> Iterator[tuple[str, Bytes]]:
            for name, features in batch:
                yield name, encode_named(name, features, precision)

        self._append(map(encoded, batches), behind=1)
        write_index(self.file, self.header, self.lines)
        self.journal.unlink()

    def join(self, shards: Iterable[Path], remake: Callable[[str], Values]) -> None:
        """Append other files of such features, and delete their values.

        Utterances that are there, as after a kill, are not appended again. Files that are gone or
        damaged are left out.

        Args:
            shards: The files, finished.
            remake: Computes an utterance's features again if they are damaged.
        """
        there = self.done

        def joined() -> Iterator[Iterator[tuple[str, Bytes]]]:
            for shard in shards:
                if not shard.exists():
                    continue
                try:
                    stored = StoredFeatures(shard, remake).stored()
                except CheckpointError as error:
                    LOGGER.warning("%s; computing it again", error)
                else:
                    yield ((name, row) for name, row in stored if name not in there)
                shard.unlink()  # its index stays: the shard was made

        self._append(joined(), behind=0)  # a shard is deleted once its values are here

    def _append(self, batches: Iterable[Iterable[tuple[str, Bytes]]], *, behind: int) -> None:
        """Append batches; threads write them while the next `behind` of them are computed."""
        end = sum(line.rows for line in self.lines) * self.header.row_bytes
        self.file.touch()
        with self.file.open("r+b") as values:
            values.truncate(end)
        head = as_json(asdict(self.header)) + "".join(map(as_json, self.lines))
        write_text(self.journal, head)  # at once: a killed process leaves the old one or the new
        unwritten: deque[list[Future[list[Line]]]] = deque()
        with (
            self.journal.open("a", encoding="utf-8") as journal,
            ThreadPoolExecutor(WRITERS) as pool,
        ):
            try:
                for batch in batches:
                    whole = list(batch)
                    size = -(-len(whole) // WRITERS) or 1
                    unwritten.append([])
                    for first in range(0, len(whole), size):
                        part = whole[first : first + size]
                        unwritten[-1].append(pool.submit(self._put, part, end))
                        end += sum(stored.nbytes for _, stored in part)
                    while len(unwritten) > behind:
                        self._note(unwritten, journal)
            finally:  # what was computed before an interruption is kept
                while unwritten:
                    self._note(unwritten, journal)

    def _put(self, part: Sequence[tuple[str, Bytes]], place: int) -> list[Line]:
        """Write utterances from a place of the file on; return their lines of the index."""
        with self.file.open("r+b") as values:
            values.seek(place)
            for _, stored in part:
                values.write(stored.data)
        return [Line(name, len(stored), zlib.crc32(stored.data)) for name, stored in part]

    def _note(self, unwritten: deque[list[Future[list[Line]]]], journal: TextIO) -> None:
        """Add the lines of the first batch to the journal, once its values are there."""
        lines = [line for part in unwritten[0] for line in part.result()]
        unwritten.popleft()
        journal.write("".join(map(as_json, lines)))
        journal.flush()
        self.lines += lines


def encode_named(name: str, values: Values | Tensor, precision: Precision) -> Bytes:
    """Return encode() of the features of the utterance called `name`.

    Raises:
        UpstreamError: If fp16 cannot hold a value.
    """
    try:
        return encode(values, precision)
    except OverflowError:
        raise too_large(name, torch.as_tensor(values)) from None


def too_large(name: str, values: Tensor) -> UpstreamError:
    """Return the error for features (L, T, D) of an utterance that fp16 cannot hold."""
    peaks = values.abs().amax((1, 2))  # of each hidden state
    return UpstreamError(
        f"features of '{name}' are too large for fp16 (hidden state {int(peaks.argmax())} of "
        f"0-{len(peaks) - 1} reaches {float(peaks.max()):.3g}, fp16 holds 65504); set "
        "store.precision=bf16 or fp32"
    )
