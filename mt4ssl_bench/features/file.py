"""Features on disk: values, and an index with a checksum for every utterance.

Whole once the index has its name.

While a pass runs, `x.bin` grows and `x.index.partial` is its journal: a killed pass continues
behind the last line whose values are all there. Checksums are verified when an utterance is first
read: that costs no reading of its own, where verifying a store of 300 GB before each run would.

A file holds (T, L, W), so that it can be written utterance by utterance; encode() and decode() turn
it from and to features (L, T, D).

Shapes: T frames, L hidden states, D dimension, W bytes of a stored vector.
"""

import json
import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt4ssl_bench.errors import CheckpointError, UpstreamError
from mt4ssl_bench.features.forward_pass import Found, Values
from mt4ssl_bench.files import write_text

LOGGER = logging.getLogger(__name__)
FORMAT = 2
Precision = Literal["fp16", "fp32", "bf16", "int8"]
Bytes = NDArray[np.uint8]


def vector_bytes(precision: Precision, dim: int) -> int:
    """Return W: how many bytes a vector of `dim` values takes.

    Int8 has a scale (fp32) of its own for each.
    """
    return {"fp32": 4 * dim, "fp16": 2 * dim, "bf16": 2 * dim, "int8": dim + 4}[precision]


def encode(values: Values, precision: Precision) -> Bytes:
    """Return features (L, T, D) as a file holds them, bytes (T, L, W).

    Raises OverflowError for what fp16 cannot hold.
    """
    values = np.ascontiguousarray(values.transpose(1, 0, 2), dtype=np.float32)
    if precision == "fp32":
        return values.view(np.uint8)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise OverflowError
        return half.view(np.uint8)
    if precision == "bf16":  # the upper half of fp32, rounded to the nearest, ties to even
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8)
    scale = np.abs(values).max(-1, keepdims=True) / 127
    whole = np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([whole.view(np.uint8), scale.astype(np.float32).view(np.uint8)], axis=-1)


def encode_named(name: str, values: Values, precision: Precision) -> Bytes:
    """Return encode() of an utterance's features.

    Raises UpstreamError for what fp16 cannot hold.
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


def decode(stored: Bytes, precision: Precision) -> Values:
    """Return bytes (T, L, W) as fp32 features (L, T, D)."""
    if precision == "fp32":
        values = stored.view(np.float32)
    elif precision == "fp16":  # ten times as fast as numpy's conversion
        values = torch.from_numpy(stored.view(np.float16)).float().numpy()
    elif precision == "bf16":
        values = (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        scale = np.ascontiguousarray(stored[..., -4:]).view(np.float32)  # (T, L, 1)
        values = stored[..., :-4].view(np.int8) * scale
    return values.transpose(1, 0, 2)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The index's first line: what these features are of."""

    format: int = FORMAT
    upstream: str
    fingerprint: str
    corpus: str
    digest: str
    split: str
    kind: str  # "frames", or which means
    utterances: int
    hours: float
    precision: Precision
    layers: int
    dim: int

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one frame, all layers."""
        return self.layers * vector_bytes(self.precision, self.dim)


class FeatureSet(ABC):
    """One split's features by utterance id; `layers` and `dim` are the upstream's."""

    layers: int
    dim: int
    identity: str = "live"  # of the values, where they are stored

    @abstractmethod
    def rows(self, names: Sequence[str]) -> list[Values]:
        """Return each utterance's features: (L, T, D), or (L, K, D) for means of crops."""

    @abstractmethod
    def count(self, name: str) -> int:
        """Return the rows of one utterance, its frames or crops, without reading them."""

    def get(self, name: str) -> Values:
        """Return one utterance's features."""
        return self.rows([name])[0]

    def batch(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return several utterances as fp32 (L, B, T, D), zero-padded, and their frames (B,)."""
        rows = self.rows(names)
        lengths = torch.tensor([row.shape[1] for row in rows])
        padded = torch.zeros(self.layers, len(rows), int(lengths.max()), self.dim)
        for b, row in enumerate(rows):
            padded[:, b, : row.shape[1]] = torch.from_numpy(row)
        return padded, lengths


class StoredFeatures(FeatureSet):
    """A whole file of features, memory-mapped.

    An utterance that fails its checksum is made again by `remake`.

    Raises CheckpointError when index and values do not belong together.
    """

    def __init__(self, file: Path, remake: Callable[[str], Values]) -> None:
        self.file, self._remake = file, remake
        self.header, self._places = read_index(file)
        self.layers, self.dim = self.header.layers, self.header.dim
        places = sorted((name, checksum) for name, (_, _, checksum) in self._places.items())
        self.identity = f"{zlib.crc32(repr(places).encode()):08x}"
        self._verified: set[str] = set()
        self._map()

    def __len__(self) -> int:
        return len(self._places)

    def rows(self, names: Sequence[str]) -> list[Values]:
        """See FeatureSet.rows."""
        return [self._row(name) for name in names]

    def count(self, name: str) -> int:
        """See FeatureSet.count."""
        start, end, _ = self._places[name]
        return end - start

    def _row(self, name: str) -> Values:
        start, end, checksum = self._places[name]
        if name not in self._verified:
            if zlib.crc32(self._stored[start:end].data) != checksum:
                self._mend(name)
            self._verified.add(name)
        return decode(self._stored[start:end], self.header.precision)

    def _mend(self, name: str) -> None:
        start, end, _ = self._places[name]
        LOGGER.warning(
            "features %s: utterance '%s' is damaged on disk; it is computed again", self.file, name
        )
        values = encode(self._remake(name), self.header.precision)
        if len(values) != end - start:
            raise CheckpointError(
                f"features {self.file}: utterance '{name}' has {len(values)} rows now, not "
                f"{end - start}: its audio has changed; prepare the corpus again"
            )
        with self.file.open("r+b") as out:
            out.seek(start * self.header.row_bytes)
            out.write(values.data)
        self._places[name] = (start, end, zlib.crc32(values.data))
        entries = [[key, last - first, crc] for key, (first, last, crc) in self._places.items()]
        write_index(self.file, self.header, entries)
        self._map()

    def _map(self) -> None:
        rows = max((end for _, end, _ in self._places.values()), default=0)
        shape = (rows, self.layers, self.header.row_bytes // self.layers)
        try:
            if self.file.stat().st_size != rows * self.header.row_bytes:
                raise ValueError(  # noqa: TRY301 - handled as a file that cannot be mapped
                    f"{self.file.stat().st_size} bytes, not {rows * self.header.row_bytes}"
                )
            # copy on write: torch wants arrays that may be written, and nothing written here
            # reaches the file
            self._stored: Bytes = np.memmap(self.file, dtype=np.uint8, mode="c", shape=shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"features {self.file}: damaged ({error})") from None


class Writer:
    """Appends utterances to a file of features.

    Opening it finds what an interrupted pass left whole (`done`).
    """

    def __init__(self, file: Path, header: Header) -> None:
        self.file, self.header = file, header
        self.journal = file.with_suffix(".index.partial")
        self.entries: list[list[Any]] = list(self._recover())
        self.done = {name for name, _, _ in self.entries}

    def _recover(self) -> Iterator[list[Any]]:
        """Yield the journal's entries up to the first whose values are not all there, unchanged."""
        try:
            head, *lines = self.journal.read_text(encoding="utf-8").splitlines()
            kept, wanted = json.loads(head), asdict(self.header)
            if any(kept[key] != wanted[key] for key in ("format", "precision", "layers", "dim")):
                return
            with self.file.open("rb") as values:
                for line in lines:
                    name, rows, checksum = json.loads(line)
                    if zlib.crc32(values.read(rows * self.header.row_bytes)) != checksum:
                        return
                    yield [name, rows, checksum]
        except (OSError, ValueError, KeyError, TypeError):
            return

    def write(self, batches: Iterator[Found]) -> None:
        """Append every batch, then give the index its name."""
        end = sum(rows for _, rows, _ in self.entries) * self.header.row_bytes
        self.file.touch()
        with self.file.open("r+b") as values, self.journal.open("w", encoding="utf-8") as journal:
            values.truncate(end)
            values.seek(end)
            journal.write(_line(asdict(self.header)) + "".join(map(_line, self.entries)))
            for batch in batches:
                for name, found in batch:
                    stored = encode_named(name, found, self.header.precision)
                    values.write(stored.data)
                    self.entries.append([name, len(stored), zlib.crc32(stored.data)])
                values.flush()  # before the journal: a line means that its values are there
                journal.write("".join(map(_line, self.entries[len(self.entries) - len(batch) :])))
                journal.flush()
        write_index(self.file, self.header, self.entries)
        self.journal.unlink()


def write_index(file: Path, header: Header, entries: Sequence[Sequence[Any]]) -> None:
    """Write the index of a whole file: header, [id, rows, checksum] lines, and a line with a
    checksum of them all.
    """
    text = _line(asdict(header)) + "".join(map(_line, entries))
    write_text(file.with_suffix(".index"), text + _line({"checksum": zlib.crc32(text.encode())}))


def read_index(file: Path) -> tuple[Header, dict[str, tuple[int, int, int]]]:
    """Return the header and {id: (first row, end row, checksum)}.

    Raises CheckpointError for a damaged index.
    """
    try:
        text = file.with_suffix(".index").read_text(encoding="utf-8")
        head, *lines, last = text.splitlines(keepends=True)
        if json.loads(last)["checksum"] != zlib.crc32(text[: -len(last)].encode()):
            # one place says what is damaged
            raise ValueError("its checksum does not fit")  # noqa: TRY301
        header, places, end = Header(**json.loads(head)), {}, 0
        for line in lines:
            name, rows, checksum = json.loads(line)
            places[name] = (end, end + rows, checksum)
            end += rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"features {file}: damaged index ({error})") from None
    return header, places


def read_header(index: Path) -> Header | None:
    """Return the header of an index or journal, or None where it is not one."""
    try:
        with index.open(encoding="utf-8") as lines:
            return Header(**json.loads(lines.readline()))
    except (OSError, ValueError, TypeError):
        return None


def _line(value: object) -> str:
    return json.dumps(value) + "\n"
