"""Hidden states or units of any audio, for other people's code: safetensors by utterance id, or
lines of unit numbers.

Shapes: T frames, L hidden states, D dimension.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.device import pick_device
from mt4ssl_bench.encoders.identity import is_of
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, CheckpointError, ConfigError, CorpusError
from mt4ssl_bench.features.forward_pass import Pass, Values
from mt4ssl_bench.features.mfcc import MFCC
from mt4ssl_bench.features.units import Codebook
from mt4ssl_bench.files import write_text, written

LOGGER = logging.getLogger(__name__)
SHARD_BYTES = (
    2**28
)  # of a file of features: what an interruption may cost, and what a program reads at once at most
SHORTEST = 0.05  # seconds of audio that s3prl asks every upstream to take
DTYPES = {"fp16": np.float16, "fp32": np.float32}


def audio_cuts(
    corpus: Path | None, splits: Sequence[str], folder: Path | None, out: Path
) -> tuple[Corpus, list[Any]]:
    """Return the cuts of a corpus's splits (default: all), or of every audio file below a folder,
    each id once.

    A folder is prepared inside `out`, so that what cannot be read is left out and said, and a
    changed folder is refused when an extraction goes on.
    """
    if (corpus is None) == (folder is None):
        raise ConfigError("extract: name what to read, either --corpus or --folder")
    if folder is not None and splits:
        raise ConfigError("--split: a folder has none; it goes with --corpus")
    opened = (
        Corpus.open(corpus) if corpus else prepare_path("folder", folder or Path(), out / "corpus")
    )
    names = list(splits) or [name for name, split in opened.info.splits.items() if split.utterances]
    cuts = list({cut.id: cut for name in names for cut in opened.cuts(name)}.values())
    short = [cut.id for cut in cuts if cut.duration < SHORTEST]
    if short:
        LOGGER.warning(
            "left out: %d utterances under %g s, the first is '%s'", len(short), SHORTEST, short[0]
        )
    return opened, [cut for cut in cuts if cut.duration >= SHORTEST]


def extract_features(
    upstream: Upstream,
    corpus: Corpus,
    cuts: Sequence[Any],
    out: Path,
    *,
    layer: int | None = None,
    dtype: Literal["fp16", "fp32"] = "fp32",
) -> Path:
    """Write hidden states as features-*.safetensors, a tensor for each utterance id, and
    index.json: id -> file.

    Tensors are (T, D) for one layer and (L, T, D) for all (None). The same call continues an
    interrupted one. Returns the index. Raises ConfigError for a layer that is not there, BenchError
    for a full disk or an `out` in other use.
    """
    layer = None if layer is None else _layer(upstream, layer)
    about = _about(upstream, corpus, cuts, layer) | {"dtype": dtype}
    index, files = out / "index.json", {}
    if index.exists():
        files = _continued(index, about, upstream)["files"]
    work, kept = Pass(upstream), 1 if layer is not None else upstream.num_layers
    left = [cut for cut in cuts if cut.id not in files]
    _need_disk(out, work.rows(left) * kept * upstream.dim * np.dtype(DTYPES[dtype]).itemsize)
    held: dict[str, NDArray[Any]] = {}

    def flush() -> None:
        if held:
            name = f"features-{len(set(files.values())):05d}.safetensors"
            with written(out / name) as file:
                file.write(save(held))  # save_file would let nobody else read it
            files.update(dict.fromkeys(held, name))
            held.clear()
        write_text(index, json.dumps({**about, "files": files}, indent=1) + "\n")

    unreadable: dict[str, str] = {}
    try:
        for batch in work(
            cuts, done=files, title=f"extract from {upstream.name}", unreadable=unreadable
        ):
            for name, values in batch:
                chosen = values if layer is None else values[layer]
                held[name] = _narrow(chosen, dtype, name)
            if sum(row.nbytes for row in held.values()) >= SHARD_BYTES:
                flush()
    finally:  # Ctrl-C keeps what there is
        flush()
    return index


def extract_units(
    upstream: Upstream,
    corpus: Corpus,
    cuts: Sequence[Any],
    out: Path,
    codebook: Codebook,
    *,
    collapse: bool = False,
) -> Path:
    """Write units.txt, a line "id unit unit ..." for each utterance in the corpus's order.

    Returns it.

    `collapse` writes a run of one unit once. The same call continues an interrupted one. Raises
    CheckpointError for a codebook made from something else than `upstream`.
    """
    if not is_of(upstream, codebook.fingerprint, where="--units"):
        raise CheckpointError(
            f"--units: its centres are of features of {codebook.fingerprint}, not of "
            f"'{upstream.name}' ({upstream.fingerprint}); extract from the upstream that "
            "'mt4ssl-bench kmeans' was given"
        )
    odd = next((cut.id for cut in cuts if cut.id.split() != [cut.id]), None)
    if odd is not None:
        raise CorpusError(
            f"utterance id '{odd}': units.txt needs ids without white space; rename it in the "
            "manifest"
        )
    about = _about(upstream, corpus, cuts, _layer(upstream, codebook.layer)) | {
        "collapse": collapse
    }
    index, file, journal = out / "index.json", out / "units.txt", out / "units.partial"
    done: dict[str, str] = {}
    if index.exists():
        _continued(index, about, upstream)
        done = dict(_lines(journal)) or dict(_lines(file))
    else:
        write_text(index, json.dumps(about, indent=1) + "\n")
    write_text(journal, "".join(f"{name} {units}\n" for name, units in done.items()))
    work, unreadable = Pass(upstream), dict[str, str]()
    with journal.open("a", encoding="utf-8") as lines:
        for batch in work(
            cuts, done=set(done), title=f"units from {upstream.name}", unreadable=unreadable
        ):
            for name, values in batch:
                units = codebook(torch.from_numpy(np.ascontiguousarray(values[codebook.layer])))
                if collapse:
                    units = units[np.insert(np.diff(units) != 0, 0, values=True)]
                done[name] = " ".join(map(str, units.tolist()))
                lines.write(f"{name} {done[name]}\n")
            lines.flush()
    write_text(file, "".join(f"{cut.id} {done[cut.id]}\n" for cut in cuts if cut.id in done))
    journal.unlink()
    return file


def extract(
    upstream: str,
    out: str | Path,
    *,
    corpus: str | Path | None = None,
    splits: Sequence[str] = (),
    folder: str | Path | None = None,
    layer: int | None = None,
    dtype: Literal["fp16", "fp32"] = "fp32",
    units: str | Path | None = None,
    collapse: bool = False,
    device: str = "auto",
) -> Path:
    """Extract hidden states, or units by the label store `units`, of a corpus or a folder of audio.

    Returns the index.

    With units the codebook says which layer; upstream "mfcc" then means the features of MFCC
    codebooks.
    """
    if collapse and not units:
        raise ConfigError("--collapse: goes with --units")
    if units and layer is not None:
        raise ConfigError("--layer: goes without --units, whose codebook belongs to one layer")
    out, where = Path(out), pick_device(device)
    codebook = Codebook(Path(units)) if units else None
    kind = codebook and codebook.fingerprint
    model = MFCC() if kind == upstream == "mfcc" else load_upstream(upstream, device=where)
    out.mkdir(parents=True, exist_ok=True)
    opened, cuts = audio_cuts(
        Path(corpus) if corpus else None, splits, Path(folder) if folder else None, out
    )
    if codebook:
        return extract_units(model, opened, cuts, out, codebook, collapse=collapse)
    return extract_features(model, opened, cuts, out, layer=layer, dtype=dtype)


def _layer(upstream: Upstream, layer: int) -> int:
    if not -upstream.num_layers <= layer < upstream.num_layers:
        raise ConfigError(
            f"--layer {layer}: '{upstream.name}' has 0 (the encoder's input) to "
            f"{upstream.num_layers - 1}"
        )
    return layer % upstream.num_layers


def _about(
    upstream: Upstream, corpus: Corpus, cuts: Sequence[Any], layer: int | None
) -> dict[str, Any]:
    ids = hashlib.sha256("\n".join(cut.id for cut in cuts).encode()).hexdigest()[:8]
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


def _continued(index: Path, about: dict[str, Any], upstream: Upstream) -> dict[str, Any]:
    """Return an index that says the same of itself as `about` does, and whose files are there."""
    try:
        found: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        files = set(found.setdefault("files", {}).values())
    except (ValueError, AttributeError):
        raise CheckpointError(f"{index}: damaged; choose another --out") from None
    if found.get("fingerprint") in getattr(upstream, "former", ()):
        found["fingerprint"] = upstream.fingerprint
    for key, value in about.items():
        if key != "upstream" and found.get(key) != value:
            raise CheckpointError(
                f"{index}: of an extraction with another {key} ({found.get(key)}, not {value}); "
                "choose another --out"
            )
    missing = sorted(name for name in files if not (index.parent / name).exists())
    if missing:
        raise CheckpointError(f"{index}: its file {missing[0]} is gone; choose another --out")
    return found


def _narrow(values: Values, dtype: str, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, dtype=DTYPES[dtype])
    if not np.isfinite(found).all():
        raise BenchError(f"features of '{name}' are too large for fp16; use --dtype fp32")
    return found


def _need_disk(out: Path, need: int) -> None:
    free = shutil.disk_usage(out).free
    if need > free:
        raise BenchError(
            f"{out}: the features need {need / 2**30:.3g} GiB and the disk has {free / 2**30:.3g} "
            "free; one --layer, --dtype fp16 or --units take less"
        )


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, units) of every whole line."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    for line in text[: text.rfind("\n") + 1].split("\n")[:-1]:
        name, _, units = line.partition(" ")
        yield name, units
