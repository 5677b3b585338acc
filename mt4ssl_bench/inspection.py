"""A prepared corpus looked at again: every file's header, or every sample; a bad file is counted, never an end."""

import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mt4ssl_bench import audio
from mt4ssl_bench.checks import Rules, in_order
from mt4ssl_bench.console import progress
from mt4ssl_bench.corpus import SID_PREFIX, Corpus, is_silent, phones_of, speaker_of, text_of
from mt4ssl_bench.cuts import Cuts
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.findings import Report
from mt4ssl_bench.manifest import DURATION_SLACK, Row, content_of
from mt4ssl_bench.shards import Shards

CLIPPED = 0.001  # share of samples at full scale
QUIET = 0.001  # of full scale: -60 dB
OFFSET = 0.05  # of full scale
DROPOUT = 0.5  # seconds of zeros
WINDOW = 512  # cuts looked at together: those of shards hold their audio

Defect = tuple[str, str]  # kind, example


def check_corpus(corpus: Corpus, *, full: bool = False) -> Report:
    """Look at every utterance of a corpus, and return what is wrong with it.

    Args:
        full: decode every sample and compare every file's digest; otherwise headers and manifests alone.

    Raises CorpusError when a split cannot be read at all.
    """
    rules = Rules(corpus.info.fields)
    splits = in_order(corpus.info.splits)
    total = sum(corpus.info.splits[split].utterances for split in splits)
    look = _decode if full else _open
    with (
        progress("decoding" if full else "reading headers", total) as advance,
        ThreadPoolExecutor() as pool,
    ):
        for split in splits:
            if not corpus.info.splits[split].utterances:
                continue
            lost: Counter[str] = Counter()
            cuts = _readable(corpus.cuts(split), lost)
            while window := list(itertools.islice(cuts, WINDOW)):
                rows = [row_of(cut) for cut in window]
                if split.startswith(
                    SID_PREFIX
                ):  # the same utterances again: their files are not looked at twice
                    found: Iterator[tuple[Row, list[Defect]]] = ((row, []) for row in rows)
                else:
                    found = pool.map(look, rows, window)
                for row, defects in found:
                    rules.add(split, row)
                    for kind, example in defects:
                        rules.found.add(kind, split, example)
                    advance(1, "")
            for reason, count in lost.items():
                rules.lose(split, reason, count)
                advance(count, "")
    return rules.report()


def _readable(cuts: Cuts | Shards, lost: Counter[str]) -> Iterator[Any]:
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


def row_of(cut: Any) -> Row:  # noqa: ANN401 - lhotse ships no types
    """Return a cut as the row that it was made from."""
    recording = cut.recording
    whole = abs(cut.duration - recording.duration) < 1 / recording.sampling_rate
    content = str((cut.custom or {}).get("content", ""))
    if content and not whole:  # a part of its file, perhaps a piece of what was prepared as one
        content = f"{content.partition('@')[0]}@{cut.start:.3f}+{cut.duration:.3f}"
    return Row(
        id=cut.id,
        path=Path(str(recording.sources[0].source))
        if recording.sources[0].type == "file"
        else Path(),
        speaker=speaker_of(cut),
        text=text_of(cut),
        phones=phones_of(cut),
        start=cut.start,
        seconds=None if whole else cut.duration,
        samples=recording.num_samples,
        rate=recording.sampling_rate,
        channels=recording.num_channels,
        content=content,
        silent=is_silent(cut),
    )


def _open(row: Row, cut: Any) -> tuple[Row, list[Defect]]:  # noqa: ANN401
    """Compare a file's header with its row."""
    if cut.recording.sources[0].type != "file":  # inside a shard, which has no header of its own
        return row, []
    try:
        frames, rate, channels = audio.probe(row.path)
    except CorpusError as error:
        kind = "missing" if str(error).endswith("no such file") else "unreadable"
        return row, [(kind, f"{row.id} ({error})")]
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


def _decode(row: Row, cut: Any) -> tuple[Row, list[Defect]]:  # noqa: ANN401
    """Compare a file's header, bytes and samples with what they should be."""
    if cut.recording.sources[0].type != "file":
        return row, _hear(row, cut)
    row, defects = _open(row, cut)
    if any(kind in {"missing", "unreadable"} for kind, _ in defects):
        return row, defects
    stated = row.content.partition("@")[0]
    try:
        found = content_of(row.path)
        start, count = round(row.start * row.rate), round(row.duration * row.rate)
        signal = audio.examine(row.path, start=start, count=count)
    except (CorpusError, OSError) as error:
        return row, [*defects, ("truncated", f"{row.id} ({error})")]
    if stated and found != stated:
        defects.append(("changed", row.id))
    if not stated:  # a corpus of Lhotse's own keeps no digests
        row = replace(
            row,
            content=found + ("" if row.seconds is None else f"@{row.start:.3f}+{row.seconds:.3f}"),
        )
    if signal.frames < count - DURATION_SLACK * row.rate:
        defects.append(("truncated", f"{row.id} ({signal.frames} of {count} samples)"))
    return row, defects + [(kind, f"{row.id} {said}".strip()) for kind, said in _judge(signal)]


def _judge(signal: audio.Signal) -> list[Defect]:
    """Return what is wrong with the samples, the worst alone."""
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


def _hear(row: Row, cut: Any) -> list[Defect]:  # noqa: ANN401
    """Decode what lies inside a shard."""
    try:
        samples = audio.read(cut)
    except Exception as error:  # noqa: BLE001 - whatever Lhotse's readers raise
        return [("truncated", f"{row.id} ({error})")]
    return [] if samples.any() else [("silent", row.id)]
