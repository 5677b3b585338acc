"""Long recordings to pieces for pretraining: cut where it is quiet or into equal windows.

What is lost is counted.
"""

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np

from mt4ssl_bench.console import progress
from mt4ssl_bench.corpora.lists import kept_lists
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import CorpusInfo, SplitInfo
from mt4ssl_bench.data.cut import SLOTS, SPOKEN, Cut, stored_turns
from mt4ssl_bench.data.write_corpus import write_corpus
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
HOP = 0.02  # seconds between two places where a piece may end
QUIET = 0.2  # seconds over which a place's loudness is measured: a pause, not the closure of a stop
WHOLE = {"text", "custom", "alignment"}  # of a supervision: what says nothing of a part
PART = re.compile(r"-\d{4,}\Z")  # the end of a piece's id
CHUNK = 256  # recordings read ahead at a time

By = Literal["silence", "windows"]


def segment_corpus(
    corpus: Corpus,
    out: Path,
    *,
    max_seconds: float = 30.0,
    min_seconds: float = 2.0,
    by: By = "silence",
) -> Corpus:
    """Write a corpus in which nothing lasts longer than `max_seconds`; audio files stay.

    What is left out is counted in corpus.json: utterances, and rows of lists that name one of them.

    Args:
        corpus: The corpus.
        out: Folder of the new one.
        max_seconds: Longer recordings become pieces `<id>-0000`, ..., with speaker, labels, other
            audio and the turns within each, without text, phones and slots.
        min_seconds: Shorter utterances are left out. At most a quarter of `max_seconds`.
        by: "silence" cuts at the quietest QUIET seconds, "windows" into the fewest equal pieces.

    Raises:
        CorpusError: If the limits do not fit, `out` holds another corpus, or nothing is left.
    """
    _check(corpus, max_seconds, min_seconds)
    digest = hashlib.sha256(
        f"{corpus.info.digest} {by} {max_seconds} {min_seconds}".encode()
    ).hexdigest()[:16]
    if existing := _existing(out, digest):
        return existing
    limits: dict[str, Json] = {"max_seconds": max_seconds, "min_seconds": min_seconds}
    counts: Counter[str] = Counter()
    ends_of = partial(_ends, most=max_seconds, by=by)
    root, ids, parents = out.resolve(), set[str](), dict[str, str]()

    def pieces(split: str) -> Iterator[dict[str, Json]]:
        cuts = corpus.cuts(split)
        with progress(f"segment {split}", len(cuts)) as advance, ThreadPoolExecutor() as pool:
            for start in range(0, len(cuts), CHUNK):
                members = cuts[start : start + CHUNK]
                for cut, ends in zip(members, pool.map(ends_of, members), strict=True):
                    for piece in _pieces(cut, ends, min_seconds, root, counts):
                        name = _own_id(piece, cut, parents, corpus)
                        if corpus.info.lists:
                            ids.add(name)
                        yield piece
                advance(len(members), "")

    def info(splits: dict[str, SplitInfo]) -> CorpusInfo:
        lost = SPOKEN if counts["cut"] else frozenset[str]()
        return replace(
            corpus.info,
            name=f"{corpus.info.name}-segments",
            digest=digest,
            splits=splits,
            fields=[field for field in corpus.info.fields if field not in lost],
            notes={"segmented": {"from": corpus.info.digest, "by": by, **limits}, **counts},
        )

    splits = {split: pieces(split) for split, info in corpus.info.splits.items() if info.utterances}
    return write_corpus(out, splits, info, lambda: kept_lists(corpus, ids, counts))


def _existing(out: Path, digest: str) -> Corpus | None:
    """Return the corpus in `out` if it is the same; raise CorpusError if it is another one."""
    if not (out / "corpus.json").exists():
        return None
    if (existing := Corpus.open(out)).info.digest == digest:
        LOGGER.info("%s: already segmented, unchanged", out)
        return existing
    raise CorpusError(f"{out}: holds another corpus ({existing.info.name}); choose another --out")


def _check(corpus: Corpus, max_seconds: float, min_seconds: float) -> None:
    if not 0 < min_seconds <= max_seconds / 4:  # no piece is shorter than a quarter
        raise CorpusError(
            f"--min-seconds {min_seconds:g}: must be over 0 and at most a quarter of "
            f"{max_seconds:g}"
        )
    if corpus.info.shards:
        raise CorpusError(
            f"{corpus.root}: holds shards; segment the corpus that they were made from, then shard "
            "that"
        )


def _ends(cut: Cut, most: float, by: By) -> list[float] | None:
    """Return where the cut's pieces end, in seconds from its start; None when it cannot be read."""
    if cut.duration <= most:
        return [cut.duration]
    if by == "windows":
        count = math.ceil(cut.duration / most)
        return [cut.duration * (n + 1) / count for n in range(count)]
    try:
        return quiet_ends(audio.read(cut), cut.duration, most)
    except CorpusError as error:
        LOGGER.warning("left out: %s", error)
        return None


def quiet_ends(samples: audio.Samples, seconds: float, most: float) -> list[float]:
    """Return the ends of pieces of 16 kHz audio (N,).

    Each is the quietest place between half of `most` and `most`. Loudness is the mean energy of the
    QUIET seconds around a place. No piece is under a quarter of `most`.
    """
    hop = round(HOP * audio.RATE)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    energy = np.convolve(np.square(frames).mean(1), np.ones(round(QUIET / HOP)), mode="same")
    ends, start = [], 0.0
    while seconds - start > most:
        last = min(start + most, seconds - most / 4)  # so that no piece is under a quarter
        first = min(start + most / 2, last - HOP)
        low, high = round(first / HOP), round(last / HOP)
        start = (low + int(np.argmin(energy[low:high]))) * HOP
        ends.append(start)
    return [*ends, seconds]


def _pieces(
    cut: Cut,
    ends: Sequence[float] | None,
    least: float,
    root: Path,
    counts: Counter[str],
) -> Iterator[dict[str, Json]]:
    """Yield the cut's pieces as lhotse writes them, counting what becomes of it."""
    if ends is None:
        counts["unreadable"] += 1
        return
    raw = dict(cut.to_dict())
    raw["recording"] = _relative(raw["recording"], root)
    custom = dict(cut.custom or {})
    if isinstance(others := custom.get("others"), Mapping):
        custom["others"] = {name: _relative(other, root) for name, other in others.items()}
    raw["custom"] = custom
    if len(ends) == 1:
        if cut.duration < least:
            counts["too_short"] += 1
        else:
            yield raw
        return
    counts["cut"] += 1
    counts["pieces"] += len(ends)
    if isinstance(labels := custom.get("labels"), Mapping):  # words of a piece are not known
        custom["labels"] = {name: label for name, label in labels.items() if name != SLOTS}
    speech = [
        {key: value for key, value in supervision.items() if key not in WHOLE}
        for supervision in cast("Sequence[Mapping[str, Json]]", raw["supervisions"])[:1]
    ]
    for number, (start, end) in enumerate(zip([0.0, *ends[:-1]], ends, strict=True)):
        place: dict[str, Json] = {
            "id": f"{cut.id}-{number:04d}",
            "start": round(cut.start + start, 6),
            "duration": round(end - start, 6),
        }
        about = {**place, "start": 0.0}
        within = (
            {"turns": turns} if (turns := _within(cut, cut.start + start, cut.start + end)) else {}
        )
        yield {
            **raw,
            **place,
            "supervisions": [{**supervision, **about} for supervision in speech],
            "custom": {**custom, **within},
        }


def _own_id(piece: Mapping[str, Json], cut: Cut, parents: dict[str, str], corpus: Corpus) -> str:
    """Return a piece's id; raise CorpusError if one of another cut, by `parents`, has it."""
    name = str(piece["id"])
    if PART.search(name) and (other := parents.setdefault(name, cut.id)) != cut.id:
        raise CorpusError(
            f"{corpus.root}: '{name}' would be an utterance of '{cut.id}' and of '{other}'; give "
            "them other ids"
        )
    return name


def _within(cut: Cut, start: float, end: float) -> dict[str, Json]:
    """Return the cut's turns between two times of its recording, cut off there."""
    return {
        tier: [
            [round(max(turn.start, start), 6), round(min(turn.end, end), 6), turn.label]
            for turn in turns
            if turn.start < end and turn.end > start
        ]
        for tier, turns in stored_turns(cut).items()
    }


def _relative(audio_of: Json, root: Path) -> Json:
    """Return a recording, or other audio, with paths relative to the folder that holds them."""
    raw = dict(cast("Mapping[str, Json]", audio_of))
    if isinstance(sources := raw.get("sources"), list):
        raw["sources"] = [_relative(source, root) for source in sources]
    if "source" in raw:
        path = Path(str(raw["source"])).resolve()
        raw["source"] = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return raw
