"""Corpora of other toolkits as rows: fairseq's lists, Lhotse's manifests and Shar."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.corpora.audio_files import keep_audio
from mt4ssl_bench.corpora.rows import Row, misplaced, one_line
from mt4ssl_bench.corpora.sources.common import cluster_ids
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.errors import CorpusError

# seconds by which a text may begin or end off its cut and still be the whole cut's
SPAN_SLACK = 0.01


# ---- fairseq ----


# ---- Lhotse ----


def lhotse(splits: Mapping[str, Path], keep: Path) -> Iterator[Row]:
    """Yield the rows of Lhotse's cuts, of a supervisions manifest with its recordings beside it, or
    of a Shar folder.

    Args:
        keep: where audio is written to that no file holds as it is: Shar's as it lies in the
            shards, single channels of files with several, and what transforms (another speed) make,
            as FLAC.

    A supervision that does not span its cut becomes an utterance of its own. One of no duration, or
    one that starts or ends outside its cut, is an unusable row (see Row): Lhotse allows both.

    Raises:
        CorpusError: If a cut is mixed or its audio is remote.
    """
    for split, path in splits.items():
        for cut in _cuts(path):
            for said in cut.supervisions or [None]:
                with _named(path):
                    row = _row(cut, said, split, path, keep)
                yield row


def lhotse_labels(
    splits: Mapping[str, Path], field: str
) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Yield (utterance id, cluster ids (T,) at 50 Hz) from a custom field of Lhotse's cuts.

    The field holds integers, as a list or as a string with spaces between them (k2SSL's). It
    belongs to a cut, or to a supervision where a cut has several.

    Raises:
        CorpusError: If an utterance has no such field, or if it holds something else than one label
            a frame.
    """
    for path in splits.values():
        for cut in _cuts(path):
            for said in cut.supervisions or [None]:
                with _named(path):
                    span = _span(cut, said)
                    if span.unusable:
                        continue
                    where = f"{path}: '{span.id}', field '{field}'"
                    values = _custom(cut, said, field, whole=span.id == cut.id)
                    if values is None:
                        there = {*(cut.custom or {}), *((said and said.custom) or {})}
                        names = ", ".join(sorted(there)) or "none"
                        raise CorpusError(
                            f"{where}: missing; expected cluster numbers in a custom field; "
                            f"custom fields there: {names}; --labels-field names one"
                        )
                    line = values if isinstance(values, str) else " ".join(map(str, values))
                    labels = cluster_ids(line, round(span.seconds * audio.RATE), where)
                yield span.id, labels


def _custom(cut: Any, said: Any, field: str, *, whole: bool) -> Any:  # noqa: ANN401
    """Return a custom field of an utterance; a cut's own belongs to it only as a whole."""
    for owner in (said, cut if whole else None):
        if owner is not None and field in (owner.custom or {}):
            return owner.custom[field]
    return None


DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AssertionError, AttributeError)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever Lhotse raises for something that is no manifest into a CorpusError."""
    try:
        yield
    except DAMAGE as error:
        raise CorpusError(
            f"{path}: not a manifest of Lhotse's ({one_line(error)[:200] or repr(error)})"
        ) from None


def _cuts(path: Path) -> Iterator[Any]:
    """Yield the cuts of a manifest or Shar folder.

    Raises CorpusError if it holds something else.
    """
    with _named(path):
        for cut in _read_cuts(path):
            kind = type(cut).__name__
            if kind not in {"MonoCut", "MultiCut"} or not cut.has_recording:
                raise CorpusError(
                    f"{path}: '{cut.id}' is a {kind}; only plain cuts of recordings can be taken"
                )
            yield cut


def _read_cuts(path: Path) -> Iterator[Any]:
    from lhotse import CutSet, RecordingSet, SupervisionSet

    if path.is_dir():
        if not any(path.glob("cuts.*.jsonl*")):
            found = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
            raise CorpusError(
                f"{path}: expected a Shar folder with cuts.000000.jsonl.gz in it, found {found}"
            )
        yield from CutSet.from_shar(in_dir=path)
    elif "supervisions" not in path.name:
        yield from _opened(CutSet, path)
    else:
        recordings = path.with_name(path.name.replace("supervisions", "recordings"))
        if not recordings.is_file():
            raise CorpusError(f"{recordings}: missing beside {path.name}")
        for cut in CutSet.from_manifests(
            _opened(RecordingSet, recordings), _opened(SupervisionSet, path)
        ):
            # a recording that nothing is said of is no utterance, and a cut's id is Lhotse's own
            if cut.supervisions:
                yield cut.with_id(cut.supervisions[0].id)


def _opened(kind: Any, path: Path) -> Any:  # noqa: ANN401 - lhotse ships no types
    found = kind.from_file(path)
    if not isinstance(
        found, kind
    ):  # from_file returns None for an empty file, and whatever else it finds
        what = "an empty file" if found is None else f"a {type(found).__name__}"
        raise CorpusError(f"{path}: expected a {kind.__name__} of Lhotse's, found {what}")
    return found


def _row(cut: Any, said: Any, split: str, manifest: Path, keep: Path) -> Row:  # noqa: ANN401
    """Return the utterance of one supervision of a cut, or of a cut without any (None)."""
    span = _span(cut, said)
    aligned = ((said and said.alignment) or {}).get("phone", ())
    language = one_line(said and said.language)
    row = Row(
        id=span.id,
        path=Path(),
        start=span.start,
        seconds=span.seconds,
        split=split,
        speaker=one_line(said and said.speaker),
        text=one_line(said and said.text),
        language="en" if language.lower() == "english" else language,
        phones=one_line(((said and said.custom) or {}).get("phones"))
        or " ".join(one.symbol for one in aligned),
        silent=bool(said) and said.text is not None and not said.text.strip(),
        unusable=span.unusable,
    )
    if row.unusable:
        return row
    of_cut = not said or type(cut).__name__ == "MonoCut"
    channel = cut.channel if of_cut else said.channel
    return _with_audio(
        row, cut.recording, {channel} if isinstance(channel, int) else set(channel), manifest, keep
    )


@dataclass(frozen=True)
class Span:
    """The id of an utterance, and its place in the recording in seconds; `unusable` as in Row."""

    id: str
    start: float
    seconds: float
    unusable: tuple[str, str] | None


def _span(cut: Any, said: Any) -> Span:  # noqa: ANN401
    lasts = cut.recording.duration
    unusable = misplaced(cut.start, cut.duration, lasts, f"a recording of {lasts:.2f} s")
    if not said:
        return Span(cut.id, cut.start, cut.duration, unusable)
    begin, seconds = (math.nan if x is None else x for x in (said.start, said.duration))
    # one by one: max() of a number and NaN is whichever comes first
    spans = abs(begin) <= SPAN_SLACK and abs(begin + seconds - cut.duration) <= SPAN_SLACK
    if len(cut.supervisions) == 1 and spans:
        return Span(cut.id, cut.start, cut.duration, unusable)
    whole = f"a cut of {cut.duration:.2f} s"
    unusable = unusable or misplaced(begin, seconds, cut.duration, whole)
    if unusable:
        return Span(said.id, begin, seconds, unusable)
    start = max(said.start, 0.0)
    return Span(said.id, cut.start + start, min(said.end, cut.duration) - start, unusable)


def _with_audio(
    row: Row,
    recording: Any,  # noqa: ANN401
    channels: set[int],
    manifest: Path,
    keep: Path,
) -> Row:
    """Return the row, whose start and seconds are the recording's, with the file that holds its
    audio.
    """
    sources = [one for one in recording.sources if channels & set(one.channels)]
    if not sources:
        details = f"channels {sorted(channels)} of {recording.num_channels}"
        return replace(row, unusable=("no_channel", details))
    if len(sources) != 1 or sources[0].type not in {"file", "memory"}:
        kinds = ", ".join(one.type for one in sources)
        raise CorpusError(f"{manifest}: '{row.id}' has audio of type {kinds}; expected one file")
    source = sources[0]
    if source.type == "file":
        path = on_disk(Path(source.source))
        path = path if path.is_file() else on_disk(manifest.parent / path)
        if not path.is_file():
            return replace(
                row, path=path.absolute()
            )  # whoever takes the rows counts or refuses those that are missing
        source.source = str(path)
    if recording.transforms or set(source.channels) != channels:
        try:
            made = _decoded(recording, channels, row)
        except Exception as error:
            raise CorpusError(
                f"{manifest}: the audio of '{row.id}' cannot be read ({one_line(error)[:200]})"
            ) from error
        file = keep_audio(keep / row.split, row.id, made)
        return replace(row, path=file, start=0.0, seconds=None)
    if source.type == "memory":
        path = keep_audio(keep / row.split, recording.id, source.source)
    if abs(row.duration - recording.duration) < 1 / recording.sampling_rate:
        row = replace(row, start=0.0, seconds=None)
    return replace(row, path=path.absolute())


def _decoded(recording: Any, channels: set[int], row: Row) -> bytes:  # noqa: ANN401
    """Return a row's stretch of some channels, transformed as the recording says, as a FLAC
    file.
    """
    import torch
    from lhotse.audio import save_audio

    samples = recording.load_audio(channels=channels, offset=row.start, duration=row.duration)
    file = io.BytesIO()
    save_audio(file, torch.from_numpy(samples), recording.sampling_rate, format="flac")
    return file.getvalue()
