"""Index of an extraction: the model, audio and layer of its files, and the file of each id.

It is written before the first file, so that another extraction into the same folder is refused
however this one ends.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.files import write_text
from mt4ssl_bench.settings import Json

INDEX = "index.json"


def facts(
    upstream: Upstream, corpus: Corpus, cuts: Sequence[Cut], layer: int | None
) -> dict[str, Json]:
    """Return what an index states of its extraction."""
    ids = digest(cut.id for cut in cuts)[:8]
    return {
        "upstream": upstream.name,
        "fingerprint": upstream.fingerprint,
        "corpus": corpus.info.name,
        "digest": corpus.info.digest,
        "layer": "all" if layer is None else layer,
        "sample_rate": audio.RATE,
        "stride": upstream.stride,
        "selection": f"{len(cuts)} utterances, {ids}",
    }


def mark_of(about: Mapping[str, Json]) -> str:
    """Return a digest of facts() but for the model's name, which others may have."""
    return digest(f"{key}: {value}" for key, value in sorted(about.items()) if key != "upstream")


def digest(lines: Iterable[str]) -> str:
    """Return a digest of some lines, 16 hex digits."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def write(index: Path, about: Mapping[str, Json], files: Mapping[str, str] | None = None) -> None:
    """Write an index atomically: facts(), and id -> file where units are not in one file."""
    listed = {} if files is None else {"files": files}
    write_text(index, json.dumps({**about, **listed}, indent=1) + "\n")


def continued(index: Path, about: Mapping[str, Json], upstream: Upstream) -> dict[str, str]:
    """Return id -> file of an extraction that was begun; nothing if there is no index.

    Raises:
        CheckpointError: If it is another one than `about` states, or a file is missing.
    """
    if not index.exists():
        return {}
    try:
        stored = json.loads(index.read_text(encoding="utf-8"))
        files: dict[str, str] = dict(stored.get("files", {}))
        if "collapse" in stored:  # units: earlier revisions did not record its codebook
            stored.setdefault("codebook", about.get("codebook"))
    except (ValueError, AttributeError, TypeError):
        raise CheckpointError(f"{index}: damaged; choose another --out") from None
    if stored.get("fingerprint") in getattr(upstream, "former", ()):
        stored["fingerprint"] = upstream.fingerprint
    for key, value in about.items():
        if key != "upstream" and stored.get(key) != value:
            raise CheckpointError(
                f"{index}: of an extraction with another {key} ({stored.get(key)}, not {value}); "
                "choose another --out"
            )
    missing = sorted(name for name in set(files.values()) if not (index.parent / name).exists())
    if missing:
        raise CheckpointError(f"{index}: its file {missing[0]} is gone; choose another --out")
    return files
