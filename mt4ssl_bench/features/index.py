"""Index of a file of features: a header, a line for each utterance, a checksum of them all.

`x.bin` has the index `x.index`; while it is written, `x.index.partial` is its journal.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.features.precision import Precision, vector_bytes
from mt4ssl_bench.files import write_text

FORMAT = 2  # of the index


@dataclass(frozen=True, kw_only=True)
class Header:
    """The index's first line: what these features are of."""

    format: int = FORMAT
    upstream: str
    fingerprint: str
    corpus: str
    digest: str
    split: str
    kind: str  # Pass.kind
    utterances: int
    hours: float
    precision: Precision
    layers: int
    dim: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a frame, all layers."""
        return self.layers * vector_bytes(self.precision, self.dim)


class Line(NamedTuple):
    """An utterance of the index: its id, and the number and checksum of its rows."""

    name: str
    rows: int
    checksum: int


def write_index(file: Path, header: Header, lines: Iterable[Line]) -> None:
    """Write the index of a finished file."""
    text = as_json(asdict(header)) + "".join(map(as_json, lines))
    write_text(file.with_suffix(".index"), text + as_json({"checksum": zlib.crc32(text.encode())}))


def read_index(file: Path) -> tuple[Header, list[Line]]:
    """Return header and lines of a finished file; raises CheckpointError if they are damaged."""
    try:
        text = file.with_suffix(".index").read_text(encoding="utf-8")
        head, *lines, last = text.splitlines(keepends=True)
        if json.loads(last)["checksum"] != zlib.crc32(text[: -len(last)].encode()):
            # one place says what is damaged
            raise ValueError("its checksum does not fit")  # noqa: TRY301
        return Header(**json.loads(head)), [Line(*json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"features {file}: damaged index ({error})") from None


def read_header(index: Path) -> Header | None:
    """Return the header of an index or journal, or None if it is neither."""
    try:
        with index.open(encoding="utf-8") as lines:
            return Header(**json.loads(lines.readline()))
    except (OSError, ValueError, TypeError):
        return None


def as_json(value: object) -> str:
    """Return a line of JSON."""
    return json.dumps(value) + "\n"
