"""Lhotse's manifests, cuts and Shar folders."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.corpora.audio_files import is_system, keep_audio
from mt4ssl_bench.corpora.frame_labels import FrameLabels, Labels, cluster_ids, read_frame_labels
from mt4ssl_bench.corpora.rows import Row, misplaced, one_line
from mt4ssl_bench.corpora.source import SPLITS, Options, Source
from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import AudioSource, Supervision
from mt4ssl_bench.data.file_state import on_disk
from mt4ssl_bench.data.lossless import encode_samples
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.settings import Json

# seconds by which a text may begin or end off its cut and still be the whole cut's
SPAN_SLACK = 0.01
T = TypeVar("T")


class Audio(AudioSource, Protocol):
    """A file, or bytes, that holds some of a recording's channels."""

    channels: Sequence[int]


class Whole(Protocol):
    """A recording as Lhotse has it."""

    id: str
    sources: Sequence[Audio]
    sampling_rate: int
    duration: float
    num_channels: int
    transforms: Sequence[object] | None

    def load_audio(
        self, *, channels: set[int], offset: float, duration: float
    ) -> NDArray[np.float32]:
        """Return samples (channels, N)."""
        ...


class Symbol(Protocol):
    """One symbol of an alignment."""

    symbol: str


class Segment(Supervision, Protocol):
    """A supervision as Lhotse has it; times are seconds from the start of its cut."""

    id: str
    start: float | None
    duration: float | None
    end: float
    channel: int | Sequence[int]
    alignment: Mapping[str, Sequence[Symbol]] | None


class Piece(Protocol):
    """A cut as Lhotse has it."""

    id: str
    start: float
    duration: float
    channel: int | Sequence[int]
    recording: Whole
    supervisions: Sequence[Segment]
    custom: Mapping[str, Json] | None
    has_recording: bool

    def with_id(self, id_: str) -> "Piece":
        """Return the cut under another id."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lhotse(Options):
    """Options of the labels."""

    labels_field: Annotated[
        str,
        "Custom field of the cuts that holds cluster labels, 50 a second: integers with spaces "
        "between them, or a list (k2SSL's manifests: kmeans). Written as a label store.",
    ] = ""
    clusters: Annotated[
        int | None, "Number of clusters of the labels, 1 or more. Default: largest label + 1."
    ] = None

    def __post_init__(self) -> None:
        """Check the options together."""
        if self.clusters is not None and not self.labels_field:
            raise ConfigError("--clusters: has no effect without --labels-field; name both")


def read(path: Path, options: Lhotse) -> Iterator[Row]:
    """Yield the utterances of cuts, of supervisions with their recordings beside them, or of Shar.

    Audio that no file holds as it is goes to `options.audio`: Shar's as it lies in the shards;
    single channels of files with several, and the output of transforms (another speed), as
    data.lossless writes them.

    A supervision that does not span its cut becomes an utterance of its own. One of no duration, or
    one that starts or ends outside its cut, is an unusable row (see Row): Lhotse allows both.

    Raises:
        CorpusError: If a cut is mixed or its audio is remote.
    """
    for cut, supervision in _utterances(path):
        with _named(path):
            row = _row(cut, supervision, path, options.audio)
        yield row


def read_field(paths: Sequence[Path], options: Lhotse) -> FrameLabels | None:
    """Return the cluster labels of a custom field; None if the options name none.

    The field holds integers, as a list or as a string with spaces between them (k2SSL's). It
    belongs to a cut, or to a supervision where a cut has several.

    Raises:
        CorpusError: If an utterance has no such field, or not one label for each frame.
        ConfigError: If the labels need more clusters than the options name.
    """
    field = options.labels_field
    if not field:
        return None
    labels = (label for path in paths for label in _labels(path, field))
    made_by, holder = f"lhotse custom field {field}", f"field '{field}' holds"
    return read_frame_labels(field, made_by, labels, options.clusters, holder)


def _labels(path: Path, field: str) -> Iterator[Labels]:
    for cut, supervision in _utterances(path):
        with _named(path):
            span = _span(cut, supervision)
            if span.unusable:
                continue
            where = f"{path}: '{span.id}', field '{field}'"
            values = _custom(cut, supervision, field, whole=span.id == cut.id)
            if values is None:
                own = (supervision and supervision.custom) or {}
                names = ", ".join(sorted({*(cut.custom or {}), *own})) or "none"
                raise CorpusError(
                    f"{where}: missing; expected cluster numbers in a custom field; "
                    f"custom fields there: {names}; --labels-field names one"
                )
            line = (
                values
                if isinstance(values, str)
                else " ".join(map(str, cast("list[Json]", values)))
            )
            ids = cluster_ids(line, round(span.seconds * audio.RATE), where)
        yield span.id, ids


def _custom(cut: Piece, supervision: Segment | None, field: str, *, whole: bool) -> Json:
    """Return a custom field of an utterance; a cut's own belongs to it only as a whole."""
    for owner in (supervision, cut if whole else None):
        if owner is not None and owner.custom and field in owner.custom:
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


def _utterances(path: Path) -> Iterator[tuple[Piece, Segment | None]]:
    """Yield each supervision with its cut; a cut without any is an utterance, too."""
    for cut in _cuts(path):
        yield from ((cut, supervision) for supervision in cut.supervisions)
        if not cut.supervisions:
            yield cut, None


def _cuts(path: Path) -> Iterator[Piece]:
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


def _read_cuts(path: Path) -> Iterator[Piece]:
    from lhotse import CutSet, RecordingSet, SupervisionSet

    if path.is_dir():
        if not any(path.glob("cuts.*.jsonl*")):
            got = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
            raise CorpusError(
                f"{path}: expected a Shar folder with cuts.000000.jsonl.gz in it, got {got}"
            )
        fields: dict[str, list[Path]] = {}
        for file in sorted(path.iterdir()):
            if not is_system(file.name):
                fields.setdefault(file.name.split(".")[0], []).append(file)
        yield from CutSet.from_shar(fields=fields)
    elif "supervisions" not in path.name:
        yield from _opened(CutSet.from_file(path), CutSet, path)
    else:
        recordings = path.with_name(path.name.replace("supervisions", "recordings"))
        if not recordings.is_file():
            raise CorpusError(f"{recordings}: missing beside {path.name}")
        for cut in CutSet.from_manifests(
            _opened(RecordingSet.from_file(recordings), RecordingSet, recordings),
            _opened(SupervisionSet.from_file(path), SupervisionSet, path),
        ):
            # a recording without supervisions is no utterance, and a cut's id is Lhotse's own
            if cut.supervisions:
                yield cut.with_id(cut.supervisions[0].id)


def _opened(manifest: object, kind: type[T], path: Path) -> T:
    """Return a manifest if it is of a kind: from_file returns None for an empty file, else any."""
    if not isinstance(manifest, kind):
        got = "an empty file" if manifest is None else f"a {type(manifest).__name__}"
        raise CorpusError(f"{path}: expected a {kind.__name__} of Lhotse's, got {got}")
    return manifest


def _row(cut: Piece, supervision: Segment | None, manifest: Path, keep: Path) -> Row:
    """Return the utterance of one supervision of a cut, or of a cut without any (None)."""
    span = _span(cut, supervision)
    row = Row(
        id=span.id,
        path=Path(),
        start=span.start,
        seconds=span.seconds,
        unusable=span.unusable,
    )
    if supervision is not None:
        text, language = supervision.text, one_line(supervision.language)
        aligned = (supervision.alignment or {}).get("phone", ())
        row = replace(
            row,
            speaker=one_line(supervision.speaker),
            text=one_line(text),
            language="en" if language.lower() == "english" else language,
            phones=one_line((supervision.custom or {}).get("phones"))
            or " ".join(one.symbol for one in aligned),
            silent=text is not None and not text.strip(),
        )
    if row.unusable:
        return row
    mono = supervision is None or type(cut).__name__ == "MonoCut"
    channel = cut.channel if mono or supervision is None else supervision.channel
    channels = {channel} if isinstance(channel, int) else set(channel)
    return _with_audio(row, cut.recording, channels, manifest, keep)


@dataclass(frozen=True)
class Span:
    """The id of an utterance, and its place in the recording in seconds; `unusable` as in Row."""

    id: str
    start: float
    seconds: float
    unusable: tuple[str, str] | None


def _span(cut: Piece, supervision: Segment | None) -> Span:
    lasts = cut.recording.duration
    unusable = misplaced(cut.start, cut.duration, lasts, f"a recording of {lasts:.2f} s")
    if supervision is None:
        return Span(cut.id, cut.start, cut.duration, unusable)
    begin, seconds = (
        math.nan if value is None else value for value in (supervision.start, supervision.duration)
    )
    # one by one: max() of a number and NaN is whichever comes first
    spans = abs(begin) <= SPAN_SLACK and abs(begin + seconds - cut.duration) <= SPAN_SLACK
    if len(cut.supervisions) == 1 and spans:
        return Span(cut.id, cut.start, cut.duration, unusable)
    whole = f"a cut of {cut.duration:.2f} s"
    unusable = unusable or misplaced(begin, seconds, cut.duration, whole)
    if unusable:
        return Span(supervision.id, begin, seconds, unusable)
    start, end = max(begin, 0.0), min(supervision.end, cut.duration)
    return Span(supervision.id, cut.start + start, end - start, unusable)


def _with_audio(
    row: Row,
    recording: Whole,
    channels: set[int],
    manifest: Path,
    keep: Path,
) -> Row:
    """Return a row, whose start and seconds are the recording's, with the file of its audio.

    Args:
        row: The utterance without its file.
        recording: The recording that it is part of.
        channels: The channels of the utterance.
        manifest: Where it is from; relative paths may start from its folder.
        keep: Folder for audio that no file holds as it is.

    Raises:
        CorpusError: If the audio is not one file, or cannot be read.
    """
    sources = [source for source in recording.sources if channels & set(source.channels)]
    if not sources:
        details = f"channels {sorted(channels)} of {recording.num_channels}"
        return replace(row, unusable=("no_channel", details))
    if len(sources) != 1 or sources[0].type not in {"file", "memory"}:
        kinds = ", ".join(source.type for source in sources)
        raise CorpusError(f"{manifest}: '{row.id}' has audio of type {kinds}; expected one file")
    source = sources[0]
    path = Path()
    if source.type == "file":
        path = on_disk(Path(str(source.source)))
        path = path if path.is_file() else on_disk(manifest.parent / path)
        if not path.is_file():
            return replace(row, path=path.absolute())  # prepare counts or rejects missing files
        source.source = str(path)
    if recording.transforms or set(source.channels) != channels:
        try:
            made = _decoded(recording, channels, row)
        except Exception as error:
            raise CorpusError(
                f"{manifest}: the audio of '{row.id}' cannot be read ({one_line(error)[:200]})"
            ) from error
        file = keep_audio(keep, row.id, made)
        return replace(row, path=file, start=0.0, seconds=None)
    if isinstance(source.source, bytes):
        path = keep_audio(keep, recording.id, source.source)
    if abs(row.duration - recording.duration) < 1 / recording.sampling_rate:
        row = replace(row, start=0.0, seconds=None)
    return replace(row, path=path.absolute())


def _decoded(recording: Whole, channels: set[int], row: Row) -> bytes:
    """Return a row's part of some channels, with the recording's transforms, as FLAC or WAV."""
    samples = recording.load_audio(channels=channels, offset=row.start, duration=row.duration)
    if not np.isfinite(samples).all():  # loudness of silence
        raise ValueError("its transforms give samples that are not finite")
    return encode_samples(samples.T, recording.sampling_rate)[1]


SOURCE = Source(
    name="lhotse",
    about="Lhotse's manifests, cuts or Shar: whatever its 100 and more recipes write",
    read=read,
    options=Lhotse,
    takes=SPLITS,
    help="""Reads cuts (.jsonl.gz), supervisions with their recordings beside them, or a Shar
    folder, for each split.

    <out>/audio gets the audio of Shar and, as FLAC or (where 24 bit do not hold a sample) WAV, of
    cuts that take some of a file's channels or change its speed.""",
    examples=("lhotse train=cuts_train.jsonl.gz test=shar/test --out corpora/mine",),
    tasks="as its supervisions allow",
    phones_from="supervisions",
    frame_labels=read_field,
)
