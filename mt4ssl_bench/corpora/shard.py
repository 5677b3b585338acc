"""A corpus to Lhotse Shar.

A shard that exists is complete and is not made again; corpus.json is written last.
"""

import gzip
import io
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mt4ssl_bench.console import progress
from mt4ssl_bench.corpora.lists import kept_lists
from mt4ssl_bench.corpora.rows import row_of
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import SID_PREFIX, Corpus
from mt4ssl_bench.data.cut import SHARDED_LABELS, Cut
from mt4ssl_bench.data.label_store import LabelStore
from mt4ssl_bench.data.lists import write_lists
from mt4ssl_bench.data.lossless import encode, fits_16_bit
from mt4ssl_bench.data.shards import LABELS, Shards, index_of
from mt4ssl_bench.data.write_corpus import write_info
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.files import write_text, written
from mt4ssl_bench.settings import Json

if TYPE_CHECKING:
    from lhotse.shar.writers.tar import TarWriter

LOGGER = logging.getLogger(__name__)
SIZE = 200  # cuts per shard: about 40 MB of read speech
PLAN = "shards.json"  # what a folder of shards is made from
LOSSLESS = "lossless"  # in the plan
EXAMPLES = 20  # left-out utterances named in corpus.json


def shard_corpus(
    corpus: Corpus,
    out: Path,
    *,
    splits: Sequence[str] = (),
    size: int = SIZE,
    labels: LabelStore | None = None,
) -> Corpus:
    """Write a corpus's splits as shards: audio without loss, texts, and labels if given.

    Audio is FLAC of 16 bit; of 24 bit, or WAV of floats, where that would change a sample.
    An interrupted call is resumed by the same call. Unreadable audio is left out and counted.

    Args:
        corpus: A prepared corpus.
        out: Folder to write.
        splits: Names of the splits to write; none named: all.
        size: Cuts per shard.
        labels: Written into the shards. A split of which no utterance has labels is written without
            (so is a speaker split of which not all have), one of which some have none is an error.

    Raises:
        CorpusError: If `out` holds other shards, a split does not exist, nothing can be read, or no
            split has labels.
    """
    _require_one_audio(corpus)
    found = splits or [name for name, info in corpus.info.splits.items() if info.utterances]
    wanted = {name: corpus.cuts(name) for name in found}
    labelled = _labelled(wanted, labels, corpus)
    said = asdict(labels.info) if labels else {}
    plan: dict[str, Json] = {"digest": corpus.info.digest, "size": size, "labels": said}
    _claim(out, plan, [cuts[0] for cuts in wanted.values()])
    _tidy(out)
    infos, left_out, counts = {}, list[str](), Counter[str]()
    for name, cuts in wanted.items():
        missing = _write_split(
            cuts, out / name, labelled.get(name), size=size, title=f"shards of {name}"
        )
        seconds = float(Shards(str(out / name)).durations.sum())
        if not seconds:
            raise CorpusError(f"corpus {corpus.root}: nothing of split '{name}' can be read")
        stated = corpus.info.splits[name]
        infos[name] = replace(
            stated, utterances=len(cuts) - len(missing), hours=round(seconds / 3600, 4)
        )
        left_out += missing
    notes, lists = dict(corpus.info.notes), {}
    if corpus.info.lists:
        ids = {cut.id for cuts in wanted.values() for cut in cuts} - set(left_out)
        lists = write_lists(out, kept_lists(corpus, ids, counts))
        notes |= counts
    if left_out:
        notes |= {"unreadable": len(left_out), "unreadable_examples": left_out[:EXAMPLES]}
    return write_info(
        out,
        replace(corpus.info, splits=infos, shards=size, notes=notes, labels=said, lists=lists),
    )


def _require_one_audio(corpus: Corpus) -> None:
    others = [field for field in corpus.info.fields if field.startswith("other:")]
    if others:
        raise CorpusError(
            f"corpus {corpus.root}: has {', '.join(others)}; shards carry one audio of each "
            "utterance; read the corpus itself, or prepare one without"
        )


def _labelled(
    wanted: Mapping[str, Sequence[Cut]], labels: LabelStore | None, corpus: Corpus
) -> dict[str, LabelStore]:
    """Return the labels by split, for the splits that carry some."""
    if labels is None:
        return {}
    found = {}
    for name, cuts in wanted.items():
        enough = (
            all if name.startswith(SID_PREFIX) else any
        )  # speaker splits mix utterances of the others
        if enough(cut.id in labels for cut in cuts):
            found[name] = labels
        else:
            LOGGER.warning(
                "split '%s': the label store does not cover it; sharded without labels", name
            )
    if not found:
        raise CorpusError(
            f"corpus {corpus.root}: the label store has none of its utterances; name one made from "
            "it"
        )
    return found


def check_free(out: Path) -> None:
    """Raise CorpusError where `out` is neither a new or empty folder nor one of shards."""
    if out.exists() and not (out / PLAN).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CorpusError(
            f"{out}: holds something else than shards; choose another folder for them"
        )


def _claim(out: Path, plan: Mapping[str, Json], examples: Sequence[Cut]) -> None:
    """Note in `out` what is going to lie there; raises CorpusError when it is something else.

    Shards of earlier revisions hold 16 bit of any audio: the plan does not say that it is lossless,
    and they are taken if that was enough for `examples`.
    """
    check_free(out)
    file = out / PLAN
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({**plan, LOSSLESS: True}, indent=1) + "\n")
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    if {**there, LOSSLESS: True} != {**plan, LOSSLESS: True}:
        raise CorpusError(
            f"{out}: holds shards of another corpus, size or labels; choose another folder for them"
        )
    if LOSSLESS not in there and any(map(_rounded, examples)):
        raise CorpusError(
            f"{out}: holds shards of an earlier revision, which rounded the audio to 16 bit; "
            "choose another folder for them, and another feature store"
        )


def _rounded(cut: Cut) -> bool:
    """Return whether 16 bit would change the cut's audio; False if it cannot be read."""
    try:
        audio.read(cut)
    except CorpusError:
        return False
    return not fits_16_bit(cut)


def _tidy(out: Path) -> None:
    """Remove the unfinished shards that killed runs left: to Lhotse they would be a field more."""
    for aside in out.glob("*/.*"):
        pid = aside.name.rpartition(".")[2]
        if pid.isdigit() and not _runs_elsewhere(int(pid)):
            shutil.rmtree(aside, ignore_errors=True)


def _runs_elsewhere(pid: int) -> bool:
    if (
        pid == os.getpid()
    ):  # ours have not begun: in a container, the killed run had the same number
        return False
    try:
        os.kill(pid, 0)  # signal 0 does nothing but ask
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _write_split(
    cuts: Sequence[Cut], out: Path, labels: LabelStore | None, *, size: int, title: str
) -> list[str]:
    """Write one split's shards and, last, their index.

    Returns the ids of what could not be read and was left out.

    The cuts are shuffled first, so that each shard is a sample of all. Shards that are there are
    not made again.
    """
    out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(cuts))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    durations: list[float] = []
    counts, sizes, left_out = [], [], []
    with progress(title, len(cuts)) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:

        def work(number: int) -> tuple[list[tuple[str, float]], list[int]]:
            return _write_shard(
                [cuts[place] for place in parts[number].tolist()], out, labels, number
            )

        for number, (made, stored) in enumerate(pool.map(work, range(len(parts)))):
            durations += [seconds for _, seconds in made]
            counts.append(len(made))
            sizes.append(stored)
            if len(made) < len(parts[number]):
                kept = {name for name, _ in made}
                left_out += [
                    name for place in parts[number].tolist() if (name := cuts[place].id) not in kept
                ]
            advance(len(parts[number]), "")
    with written(Path(index_of(str(out)))) as file:
        np.savez(
            file, durations=np.array(durations), counts=np.array(counts), bytes=np.array(sizes)
        )
    return left_out


def _whole(cut: Cut, *, clusters: bool) -> Cut:
    """Return the cut with the notes of a whole recording, which it is in its shard.

    Args:
        cut: The cut, perhaps a part of its recording.
        clusters: Whether it is going to carry cluster labels, in the field `labels`.
    """
    row = row_of(cut)
    whole = cut.with_custom("content", row.content)
    if row.turns:
        whole = whole.with_custom("turns", dict(row.turns))
    return whole.with_custom(SHARDED_LABELS, dict(row.labels)) if clusters and row.labels else whole


def _write_shard(
    cuts: Sequence[Cut], out: Path, labels: LabelStore | None, number: int
) -> tuple[list[tuple[str, float]], list[int]]:
    """Write one shard, unless it is there.

    Returns (id, seconds) of its cuts and the bytes of its tar files.
    """
    from lhotse.shar import SharWriter
    from lhotse.shar.writers.tar import TarWriter

    suffix = f".{number:06d}"
    fields = {LABELS: "numpy"} if labels else {}
    names = ["recording", *fields]
    manifest = out / f"cuts.{number:06d}.jsonl.gz"
    if not manifest.exists():  # it is moved last
        with tempfile.TemporaryDirectory(
            prefix=f".{number:06d}.", suffix=f".{os.getpid()}", dir=out
        ) as aside:
            with (
                SharWriter(
                    aside, fields, shard_size=None, shard_suffix=suffix, warn_unused_fields=False
                ) as writer,
                TarWriter(f"{aside}/recording{suffix}.tar", shard_size=None) as recordings,
            ):
                for cut in cuts:
                    try:
                        audio.read(cut)  # the decoder takes a file that is cut short as it comes
                    except CorpusError as error:
                        LOGGER.warning("left out: %s", error)
                        continue
                    kept = _whole(cut, clusters=labels is not None)
                    _write_audio(kept, recordings)
                    writer.write(
                        kept.attach_tensor(LABELS, np.asarray(labels.all_of(cut.id)))
                        if labels
                        else kept
                    )
            for file in sorted(Path(aside).iterdir(), key=lambda file: file.name == manifest.name):
                file.replace(out / file.name)
    if not manifest.exists():  # nothing could be read
        return [], [0] * len(names)
    with gzip.open(manifest) as lines:
        made = [(raw["id"], raw["duration"]) for raw in map(json.loads, lines)]
    return made, [(out / f"{field}.{number:06d}.tar").stat().st_size for field in names]


def _write_audio(cut: Cut, recordings: "TarWriter") -> None:
    """Write the cut's audio as Lhotse's writer does, but with equal samples; the cut refers to it.

    Lhotse decodes some files (MP3) otherwise than audio.read(), and writes 16 bit whatever it read.
    """
    from lhotse.shar.utils import to_shar_placeholder

    container, content = encode(cut)
    cut.recording = recording = to_shar_placeholder(cut.recording, cut)
    about = json.dumps(recording.to_dict()) + "\n"
    recordings.write(f"{cut.id}.{container}", io.BytesIO(content))
    recordings.write(f"{cut.id}.json", io.BytesIO(about.encode()), count=False)
