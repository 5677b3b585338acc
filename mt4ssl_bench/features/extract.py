"""Extraction of hidden states (safetensors) or units (text) of any audio, for other programs.

Shapes: L hidden states, T frames, D dimension.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mt4ssl_bench.corpora.prepare_source import prepare_path
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.encoders.identity import is_of
from mt4ssl_bench.encoders.load import load_upstream
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import BenchError, CheckpointError, ConfigError, CorpusError
from mt4ssl_bench.features import extract_index
from mt4ssl_bench.features.extract_index import INDEX, continued, digest, facts, mark_of
from mt4ssl_bench.features.forward_pass import Named, Pass, Values
from mt4ssl_bench.features.mfcc import MFCC
from mt4ssl_bench.features.units import Codebook
from mt4ssl_bench.files import locked, write_text, written
from mt4ssl_bench.settings import Json
from mt4ssl_bench.shared_work import Unit, finish, share
from mt4ssl_bench.training.distributed import ALONE, World
from mt4ssl_bench.training.launch import check_alike, check_shared, joined

LOGGER = logging.getLogger(__name__)
# of a file of features: at most this much is lost by an interruption, and read at once by a program
SHARD_BYTES = 2**28
SHORTEST = 0.05  # seconds of audio that s3prl asks every upstream to take
DTYPES = {"fp16": np.float16, "fp32": np.float32}
MARK = "extraction"  # in a file of features: mark_of() what it belongs to


def audio_cuts(
    corpus: Path | None, splits: Sequence[str], folder: Path | None, out: Path
) -> tuple[Corpus, list[Cut]]:
    """Return a corpus and the cuts to extract, each id once.

    Args:
        corpus: Folder of a prepared corpus.
        splits: Of the corpus; empty for all.
        folder: Instead of a corpus, a tree of audio files. It is prepared inside `out`, so that
            unreadable files are skipped and logged, and a changed folder is an error when an
            extraction continues.
        out: Folder of the extraction.
    """
    if (corpus is None) == (folder is None):
        raise ConfigError("extract: name what to read, either --corpus or --folder")
    if folder is not None and splits:
        raise ConfigError("--split: a folder has none; it requires --corpus")
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
    cuts: Sequence[Cut],
    out: Path,
    *,
    layer: int | None = None,
    dtype: Literal["fp16", "fp32"] = "fp32",
    world: World = ALONE,
) -> Path:
    """Write hidden states to features-*.safetensors, a tensor for each utterance id.

    The same call continues an interrupted one.

    Args:
        upstream: The model.
        corpus: Of the cuts.
        cuts: Utterances, each id once.
        out: Folder to write.
        layer: Writes this hidden state, tensors (T, D); None: all, tensors (L, T, D).
        dtype: Of the tensors.
        world: The processes that share the files.

    Returns:
        index.json, which maps ids to files.

    Raises:
        ConfigError: If the model has no such layer.
        BenchError: If the disk is too small, or `out` holds another extraction.
    """
    layer = None if layer is None else _layer(upstream, layer)
    about = facts(upstream, corpus, cuts, layer) | {"dtype": dtype}
    index, mark, forward = out / INDEX, mark_of(about), Pass(upstream)
    layers = 1 if layer is not None else upstream.num_layers
    frame = layers * upstream.dim * np.dtype(DTYPES[dtype]).itemsize
    # all processes plan from the main one's view, which it changes at the end
    found = _begin(index, about, upstream, cuts, frame) if world.main else {}
    files = world.gather(found)[0]
    unreadable: dict[str, str] = {}

    def make(file: Path, names: set[str]) -> None:
        done = {cut.id for cut in cuts} - names
        batches = forward(cuts, done=done, unreadable=unreadable, layer=layer)
        _write_shard(file, batches, dtype, mark)

    units = [
        Unit(file.with_suffix(".lock"), file.exists, partial(make, file, own), len(own))
        for file, own in _shards(out, mark, forward, cuts, files, frame).items()
    ]
    try:
        begin = world.rank / world.size
        finish(share(units, start=begin, title=f"extract from {upstream.name}"))
        world.barrier()
    finally:  # Ctrl-C keeps what there is
        if world.main:
            _end(index, about, files, units)
    world.barrier()
    return index


def _begin(
    index: Path, about: Mapping[str, Json], upstream: Upstream, cuts: Sequence[Cut], frame: int
) -> dict[str, str]:
    """Write the index before the first file; return id -> file of what is there.

    Files that a killed process did not list are found by their mark.

    Raises:
        BenchError: If the disk is too small, or the folder holds another extraction.
    """
    with locked(index.parent):  # of two commands at once, the second one finds the first one's
        files = continued(index, about, upstream) | _stored(index.parent, mark_of(about))
        left = [cut for cut in cuts if cut.id not in files]
        _need_disk(index.parent, Pass(upstream).rows(left) * frame)
        extract_index.write(index, about, files)
    return files


def _end(
    index: Path, about: Mapping[str, Json], files: Mapping[str, str], units: Sequence[Unit]
) -> None:
    """Write the index of all files, and remove the locks."""
    for unit in units:
        unit.lock.unlink(missing_ok=True)
    extract_index.write(index, about, {**files, **_stored(index.parent, mark_of(about))})


def _write_shard(file: Path, batches: Iterable[Sequence[Named]], dtype: str, mark: str) -> None:
    rows = {name: _narrow(values, dtype, name) for batch in batches for name, values in batch}
    with written(file) as shard:
        shard.write(save(rows, {MARK: mark}))  # save_file would let nobody else read it


def _shards(
    out: Path, mark: str, forward: Pass, cuts: Sequence[Cut], files: Mapping[str, str], frame: int
) -> dict[Path, set[str]]:
    """Return the ids of each file to write: whole batches of SHARD_BYTES, of ids not in `files`.

    Names are digests of the ids: on another device, batches and so files have others.
    """
    groups, size = [set[str]()], 0
    for batch in forward.batches(cuts):
        if size >= SHARD_BYTES:
            groups, size = [*groups, set()], 0
        new = [cut for cut in batch if cut.id not in files]
        groups[-1].update(cut.id for cut in new)
        size += forward.rows(new) * frame
    named = ((digest([mark, *sorted(group)]), group) for group in groups if group)
    return {out / f"features-{name}.safetensors": group for name, group in named}


def _stored(out: Path, mark: str) -> dict[str, str]:
    """Return id -> file of the files of one extraction; those without any id are removed.

    Raises:
        CheckpointError: If a file is damaged.
    """
    files: dict[str, str] = {}
    for file in sorted(out.glob("features-*.safetensors")):
        try:
            with safe_open(file, "np") as stored:
                own, names = (stored.metadata() or {}).get(MARK) == mark, set(stored.keys())
        except SafetensorError as error:
            raise CheckpointError(
                f"{file}: damaged ({error}); delete it and rerun the same command"
            ) from None
        if own and not names:  # audio that cannot be read is tried again by the next call
            file.unlink()
        elif own:
            files.update(dict.fromkeys(sorted(names), file.name))
    return files


def extract_units(
    upstream: Upstream,
    corpus: Corpus,
    cuts: Sequence[Cut],
    out: Path,
    codebook: Codebook,
    *,
    collapse: bool = False,
) -> Path:
    """Write units.txt, a line "id unit unit ..." for each cut in order, and return its path.

    The same call continues an interrupted one.

    Args:
        upstream: The model.
        corpus: Of the cuts.
        cuts: Utterances, each id once.
        out: Folder to write.
        codebook: The centres.
        collapse: Write a run of one unit once.

    Raises:
        CheckpointError: If the codebook was made from another model than `upstream`, or `out` holds
            another extraction.
        CorpusError: If an id contains white space.
    """
    _check_units(upstream, cuts, codebook)
    layer = _layer(upstream, codebook.layer)
    how: dict[str, Json] = {"collapse": collapse, "codebook": _name(codebook)}
    about = facts(upstream, corpus, cuts, layer) | how
    index, file, journal = out / INDEX, out / "units.txt", out / "units.partial"
    with locked(out):
        done: dict[str, str] = {}
        if index.exists():
            continued(index, about, upstream)
            done = dict(_lines(journal)) or dict(_lines(file))
        extract_index.write(index, about)
        write_text(journal, "".join(f"{name} {units}\n" for name, units in done.items()))
        with journal.open("a", encoding="utf-8") as lines:
            for batch in _units(upstream, cuts, codebook, set(done), collapse=collapse):
                done |= batch
                lines.writelines(f"{name} {units}\n" for name, units in batch.items())
                lines.flush()
        write_text(file, "".join(f"{cut.id} {done[cut.id]}\n" for cut in cuts if cut.id in done))
        journal.unlink()
    return file


def _units(
    upstream: Upstream, cuts: Sequence[Cut], codebook: Codebook, done: set[str], *, collapse: bool
) -> Iterator[dict[str, str]]:
    """Yield id -> units of each batch."""
    forward, title = Pass(upstream), f"units from {upstream.name}"
    for batch in forward(cuts, done=done, title=title, unreadable={}, layer=codebook.layer):
        found = {}
        for name, values in batch:
            units = codebook(torch.from_numpy(np.ascontiguousarray(values)))
            if collapse:
                units = units[np.insert(np.diff(units) != 0, 0, values=True)]
            found[name] = " ".join(map(str, units.tolist()))
        yield found


def _name(codebook: Codebook) -> str:
    """Return how an index names a codebook."""
    values = codebook.centres.numpy()
    return f"{len(values)} centres, {hashlib.sha256(values.tobytes()).hexdigest()[:8]}"


def _check_units(upstream: Upstream, cuts: Sequence[Cut], codebook: Codebook) -> None:
    """Raise BenchError for another model's codebook, and for ids that units.txt cannot hold."""
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
    """Extract hidden states or units of a corpus or a folder of audio.

    Args:
        upstream: A name that load_upstream() takes, or "mfcc" with a codebook of MFCC.
        out: Folder to write.
        corpus: Folder of a prepared corpus, or None.
        splits: Of the corpus; empty for all.
        folder: Instead of a corpus, a tree of audio files.
        layer: One hidden state; None for all.
        dtype: Of hidden states.
        units: A label store: write its units instead, of the layer that it was made from.
        collapse: Write a run of one unit once.
        device: A torch device, or "auto".

    Returns:
        index.json of hidden states, or units.txt.
    """
    if collapse and not units:
        raise ConfigError("--collapse: requires --units")
    if units and layer is not None:
        raise ConfigError(
            "--layer: cannot be combined with --units, whose codebook fixes the layer"
        )
    out, codebook = Path(out), Codebook(Path(units)) if units else None
    of_mfcc = codebook is not None and codebook.fingerprint == upstream == "mfcc"
    with joined(device) as world:
        model = MFCC() if of_mfcc else load_upstream(upstream, device=world.device)
        check_shared(out, world)
        out.mkdir(parents=True, exist_ok=True)
        with world.main_first():  # which prepares the folder
            opened, cuts = audio_cuts(
                Path(corpus) if corpus else None, splits, Path(folder) if folder else None, out
            )
        check_alike(facts(model, opened, cuts, layer), world)
        if codebook is None:
            return extract_features(model, opened, cuts, out, layer=layer, dtype=dtype, world=world)
        if world.main:  # one file, in one order
            extract_units(model, opened, cuts, out, codebook, collapse=collapse)
        world.barrier()
        return out / "units.txt"


def _layer(upstream: Upstream, layer: int) -> int:
    if not -upstream.num_layers <= layer < upstream.num_layers:
        raise ConfigError(
            f"--layer {layer}: '{upstream.name}' has 0 (the encoder's input) to "
            f"{upstream.num_layers - 1}"
        )
    return layer % upstream.num_layers


def _narrow(values: Values, dtype: str, name: str) -> NDArray[np.floating]:
    """Return a copy of values as `dtype`; raises BenchError if they are too large."""
    with np.errstate(over="ignore"):
        narrow = np.array(values, dtype=DTYPES[dtype], order="C")  # a view would keep all layers
    if not np.isfinite(narrow).all():
        raise BenchError(f"features of '{name}' are too large for fp16; use --dtype fp32")
    return narrow


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
