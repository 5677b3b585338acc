"""A prepared corpus looked at again: every file's header, or every sample.

A bad file is counted, never an end.
"""

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from mt4ssl_bench.console import progress
from mt4ssl_bench.corpora.check_report import Report
from mt4ssl_bench.corpora.check_rules import Rules, in_order
from mt4ssl_bench.corpora.lists import unknown_columns
from mt4ssl_bench.corpora.rows import DURATION_SLACK, Row, row_of
from mt4ssl_bench.data import audio_headers
from mt4ssl_bench.data.containers import Defect, defect_of
from mt4ssl_bench.data.corpus import SID_PREFIX, Corpus
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.data.cuts import Cuts
from mt4ssl_bench.data.file_state import content_of, is_changed, on_disk, states_of
from mt4ssl_bench.data.shards import Shards
from mt4ssl_bench.data.signal import Signal, examine
from mt4ssl_bench.errors import CorpusError

CLIPPED = 0.001  # share of samples at full scale
QUIET = 0.001  # of full scale: -60 dB
OFFSET = 0.05  # of full scale
DROPOUT = 0.5  # seconds of zeros
WINDOW = 512  # cuts looked at together: those of shards hold their audio


def check_corpus(corpus: Corpus, *, full: bool = False) -> Report:
    """Check every utterance of a corpus, and return the findings.

    Args:
        corpus: A prepared corpus.
        full: Decode every sample, compare every file's digest, and find duplicates by samples;
            otherwise read only headers and manifests.

    Raises:
        CorpusError: If a split cannot be read at all.
    """
    rules = Rules(corpus.info.fields, "samples" if full else "bytes")
    splits = in_order(corpus.info.splits)
    total = sum(corpus.info.splits[split].utterances for split in splits)
    look = partial(_decode if full else _open, header=lru_cache(256)(partial(_header, search=full)))
    decoded: dict[str, str] = {}  # digest of bytes -> of samples, for the speaker splits
    with (
        progress("decoding" if full else "reading headers", total) as advance,
        ThreadPoolExecutor() as pool,
    ):
        for split in splits:
            if not corpus.info.splits[split].utterances:
                continue
            lost: Counter[str] = Counter()
            cuts = _readable(corpus.cuts(split), lost)
            again = split.startswith(SID_PREFIX)  # the same utterances: not looked at twice
            while window := list(itertools.islice(cuts, WINDOW)):
                rows = [row_of(cut) for cut in window]
                found: Iterator[tuple[Row, list[Defect]]] = (
                    (
                        (replace(row, content=decoded.get(row.content, row.content)), [])
                        for row in rows
                    )
                    if again
                    else pool.map(look, rows, window)
                )
                for before, (row, defects) in zip(rows, found, strict=True):
                    rules.add(split, row, before.content)
                    for kind, example in defects:
                        rules.found.add(kind, split, example)
                    if full and not again and splits[-1].startswith(SID_PREFIX):
                        decoded[before.content] = row.content
                    advance(1, "")
            for reason, count in lost.items():
                rules.lose(split, reason, count)
                advance(count, "")
    _check_lists(corpus, rules)
    return rules.report()


def _check_lists(corpus: Corpus, rules: Rules) -> None:
    for name in corpus.info.lists:
        try:
            rows = corpus.list(name)
        except CorpusError as error:
            rules.found.add("list", "", f"{name} ({error})")
            continue
        for number, row in enumerate(rows, start=1):
            for column in unknown_columns(row, rules.knows):
                rules.found.add("unknown_id", "", f"{name}, row {number} ('{row[column]}')")


def _readable(cuts: Cuts | Shards, lost: Counter[str]) -> Iterator[Cut]:
    """Yield the cuts, counting by reason in `lost` those of damaged shards."""
    if not isinstance(cuts, Shards):
        yield from cuts
        return
    for place in range(len(cuts)):
        try:
            cut = cuts[place]
        except CorpusError as error:
            lost[str(error)] += 1
        else:
            yield cut


def _header(path: Path, *, search: bool) -> tuple[int, int, int, Defect | None]:
    """Return a file's frames, rate and channels, and what its headers disagree about; see probe."""
    frames, rate, channels = audio_headers.probe(path)
    return frames, rate, channels, defect_of(path, frames=frames, rate=rate, search=search)


Header = Callable[[Path], tuple[int, int, int, Defect | None]]


def _open(row: Row, cut: Cut, header: Header) -> tuple[Row, list[Defect]]:
    """Compare a file's header, size and time with its row."""
    row, defects = _headers(row, cut, header)
    if is_changed(cut):
        defects.append(("changed", row.id))
    return row, defects + _others(row, header)


def _headers(row: Row, cut: Cut, header: Header) -> tuple[Row, list[Defect]]:
    if cut.recording.sources[0].type != "file":  # inside a shard, which has no header of its own
        return row, []
    path = on_disk(row.path)
    try:
        frames, rate, channels, defect = header(path)
    except CorpusError as error:
        known = defect_of(path)
        kind = "missing" if str(error).endswith("no such file") else "unreadable"
        return row, [(known[0] if known else kind, f"{row.id} ({error})")]
    row = replace(row, defects=(defect,) if defect else ())
    defects: list[Defect] = []
    if (rate, channels) != (row.rate, row.channels):
        said = f"{row.rate} Hz, {row.channels} channels"
        defects.append(
            ("format", f"{row.id} ({rate} Hz, {channels} channels; the manifest says {said})")
        )
    elif abs(frames - row.samples) > 1:
        said = f"{frames / rate:.2f} s, the manifest says {row.samples / row.rate:.2f} s"
        defects.append(("duration", f"{row.id} ({said})"))
    if row.start < 0 or row.start + row.duration > frames / rate + DURATION_SLACK:
        defects.append(
            (
                "outside",
                f"{row.id} (ends at {row.start + row.duration:.2f} s of {frames / rate:.2f} s)",
            )
        )
    return row, defects


def _others(row: Row, header: Header) -> list[Defect]:
    """Return which other audio cannot be opened, or has another length or rate than its own."""
    if not row.others:
        return []
    try:
        own = header(on_disk(row.path))[:2]
    except CorpusError:  # named already
        return []
    defects: list[Defect] = []
    for name, path in row.others.items():
        try:
            frames, rate, *_ = header(on_disk(path))
        except CorpusError as error:
            missing = str(error).endswith("no such file")
            defects.append(("missing" if missing else "unreadable", f"{row.id} ({name}: {error})"))
            continue
        if (frames, rate) != own:
            details = f"{name}: {frames:,} samples at {rate:,} Hz, its own {own[0]:,} at {own[1]:,}"
            defects.append(("other", f"{row.id} ({details} Hz)"))
    return defects


def _decode(row: Row, cut: Cut, header: Header) -> tuple[Row, list[Defect]]:
    """Compare a file's header, bytes and samples with what they should be."""
    source = cut.recording.sources[0].source
    row, defects = _headers(row, cut, header)
    if defects and defects[0][0] in {"missing", "unreadable", "truncated", "longer", "unfinished"}:
        return row, defects  # no header can be read
    stated = row.content.partition("@")[0]
    start, count = round(row.start * row.rate), round(row.duration * row.rate)
    file = io.BytesIO(source) if isinstance(source, bytes) else on_disk(row.path)
    short = bool(row.defects) and row.defects[0][0] == "truncated"  # named already
    try:
        if isinstance(file, Path) and stated and content_of(file) != stated:
            defects.append(("changed", row.id))
        defects += _others(row, header)
        for name, state in states_of(cut).items():
            path = on_disk(state.path)
            if name and path.is_file() and content_of(path) != state.content:
                defects.append(("changed", f"{row.id} ({name})"))
        signal = examine(file, start=start, count=count)
    except (CorpusError, OSError) as error:
        return row, defects if short else [*defects, ("truncated", f"{row.id} ({error})")]
    row = replace(row, content=signal.digest)
    estimated = row.seconds or signal.container == "MP3"  # of other whole files, samples are known
    if signal.frames < count - (DURATION_SLACK * row.rate if estimated else 1) and not short:
        defects.append(("truncated", f"{row.id} ({signal.frames} of {count} samples)"))
    return row, defects + [(kind, f"{row.id} {said}".strip()) for kind, said in _judge(signal)]


def _judge(signal: Signal) -> list[Defect]:
    """Return the worst defect of the samples, if any."""
    if not signal.finite:
        return [("not_finite", "")]
    if signal.silent:
        return [("silent", "")]
    found = []
    if signal.clipped > CLIPPED:
        found.append(("clipped", f"({100 * signal.clipped:.1f} % of its samples)"))
    if signal.level < QUIET:
        found.append(("quiet", f"({signal.level:.5f})"))
    if abs(signal.offset) > OFFSET:
        found.append(("offset", f"({100 * signal.offset:.0f} %)"))
    if signal.dead_channel:
        found.append(("dead_channel", ""))
    if signal.silence >= DROPOUT:
        found.append(("dropout", f"({signal.silence:.1f} s)"))
    return found
