"""A corpus to Lhotse Shar: a shard that is there is whole and never made again, and corpus.json comes last."""

import gzip
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench import audio
from mt4ssl_bench.console import progress
from mt4ssl_bench.corpus import Corpus, write_info
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text, written
from mt4ssl_bench.shards import LABELS, Shards

LOGGER = logging.getLogger(__name__)
SIZE = 200  # cuts per shard: about 40 MB of read speech
EXAMPLES = 20  # left-out utterances named in corpus.json

Labels = Callable[[str], NDArray[Any]]  # utterance id -> labels (T,)


def shard_corpus(
    corpus: Corpus,
    out: Path,
    *,
    splits: Sequence[str] = (),
    size: int = SIZE,
    labels: Labels | None = None,
    about: Mapping[str, Any] | None = None,
) -> Corpus:
    """Write a corpus's splits as shards: FLAC (16 bit, at the recordings' own rates), texts, and labels if given.

    Args:
        splits: which of them; none named: all.
        size: cuts per shard.
        labels, about: labels by utterance id, and what they are, for corpus.json.

    Repeating it continues. What cannot be read is left out and counted. Raises CorpusError when `out` holds other
    shards, a split does not exist, or nothing can be read.
    """
    found = splits or [name for name, info in corpus.info.splits.items() if info.utterances]
    wanted = {name: corpus.cuts(name) for name in found}
    said = dict(about or {})
    _claim(out, {"digest": corpus.info.digest, "size": size, "labels": said})
    infos, left_out = {}, []
    for name, cuts in wanted.items():
        missing = _write_split(cuts, out / name, labels, size=size, title=f"shards of {name}")
        seconds = float(Shards(str(out / name)).durations.sum())
        if not seconds:
            raise CorpusError(f"corpus {corpus.root}: nothing of split '{name}' can be read")
        stated = corpus.info.splits[name]
        infos[name] = replace(stated, utterances=len(cuts) - len(missing), hours=round(seconds / 3600, 4))
        left_out += missing
    notes = dict(corpus.info.notes)
    if left_out:
        notes |= {"unreadable": len(left_out), "unreadable_examples": left_out[:EXAMPLES]}
    return write_info(out, replace(corpus.info, splits=infos, shards=size, notes=notes, labels=said))


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Note in `out` what is going to lie there; raises CorpusError when it is something else."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "shards.json"
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != plan:
            raise CorpusError(f"{out}: holds shards of another corpus, size or labels; choose another --out")
    elif any(out.iterdir()):
        raise CorpusError(f"{out}: not empty; choose another --out")
    else:
        write_text(file, json.dumps(plan, indent=1) + "\n")


def _write_split(cuts: Sequence[Any], out: Path, labels: Labels | None, *, size: int, title: str) -> list[str]:
    """Write one split's shards and, last, their index; returns the ids of what could not be read and was left out.

    The cuts are shuffled first, so that each shard is a sample of all. Shards that are there are not made again.
    """
    out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(cuts))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    durations: list[float] = []
    counts, sizes, left_out = [], [], []
    with progress(title, len(cuts)) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:

        def work(number: int) -> tuple[list[tuple[str, float]], list[int]]:
            return _write_shard([cuts[place] for place in parts[number].tolist()], out, labels, number)

        for number, (made, stored) in enumerate(pool.map(work, range(len(parts)))):
            durations += [seconds for _, seconds in made]
            counts.append(len(made))
            sizes.append(stored)
            if len(made) < len(parts[number]):
                kept = {name for name, _ in made}
                left_out += [name for place in parts[number].tolist() if (name := cuts[place].id) not in kept]
            advance(len(parts[number]), "")
    with written(out / "index.npz") as file:
        np.savez(file, durations=np.array(durations), counts=np.array(counts), bytes=np.array(sizes))
    return left_out


def _write_shard(
    cuts: Sequence[Any], out: Path, labels: Labels | None, number: int
) -> tuple[list[tuple[str, float]], list[int]]:
    """Write one shard, unless it is there; returns (id, seconds) of its cuts and the bytes of its tar files."""
    from lhotse.shar import SharWriter

    fields = {"recording": "flac", **({LABELS: "numpy"} if labels else {})}
    manifest = out / f"cuts.{number:06d}.jsonl.gz"
    if not manifest.exists():  # it is moved last
        aside = out / f".{number:06d}.{os.getpid()}"
        aside.mkdir(exist_ok=True)
        with SharWriter(aside, fields, shard_size=None, shard_suffix=f".{number:06d}") as writer:
            for cut in cuts:
                try:
                    audio.read(cut)  # lhotse's own reader takes a file that is cut short as it comes
                except CorpusError as error:
                    LOGGER.warning("left out: %s", error)
                    continue
                writer.write(cut.attach_tensor(LABELS, np.asarray(labels(cut.id))) if labels else cut)
        for file in sorted(aside.iterdir(), key=lambda file: file.name == manifest.name):
            file.replace(out / file.name)
        aside.rmdir()
    if not manifest.exists():  # nothing could be read
        return [], [0] * len(fields)
    with gzip.open(manifest) as lines:
        made = [(raw["id"], raw["duration"]) for raw in map(json.loads, lines)]
    return made, [(out / f"{field}.{number:06d}.tar").stat().st_size for field in fields]
