"""Corpora of other toolkits as rows: fairseq's lists, Lhotse's manifests and Shar, datasets of Hugging Face."""

import hashlib
import io
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench import audio
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.files import written
from mt4ssl_bench.manifest import DURATION_SLACK, Row
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
SAME = {"validation": "valid", "dev": "valid"}  # other names of our splits
LABEL_RATE = 50  # cluster labels per second
SPAN_SLACK = 0.01  # seconds by which a text may begin or end off its cut and still be the whole cut's


# ---- fairseq ----


def fairseq(splits: Mapping[str, Path]) -> Iterator[Row]:
    """Yield the rows of fairseq's .tsv lists, with the texts of .wrd or .ltr and the phones of .phn files beside them.

    A list holds its root in the first line, then "relative path<tab>samples" lines at 16 kHz, as HuBERT reads them.
    Labels belong to lines by number: a file of another length, empty lines at its end apart, is a CorpusError.
    """
    for split, file in splits.items():
        root, entries = _read_list(file)
        words = _beside(file, ".wrd", len(entries))
        if words is None:
            letters = _beside(file, ".ltr", len(entries))
            words = None if letters is None else ["".join(line.split()).replace("|", " ").strip() for line in letters]
        phones = _beside(file, ".phn", len(entries))
        for number, (relative, samples) in enumerate(entries):
            yield Row(
                id=_name(relative), path=root / relative, stated=samples / audio.RATE, split=split,
                text=words[number] if words else "", phones=phones[number] if phones else "",
            )  # fmt: skip


def fairseq_labels(splits: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Yield (utterance id, cluster ids (T,) at 50 Hz) of the .km files beside fairseq's lists, if there are any.

    Raises CorpusError naming file and line for what are no cluster ids, or more or fewer than the audio's length needs.
    """
    for file in splits.values():
        _, entries = _read_list(file)
        lines = _beside(file, ".km", len(entries)) or ()
        for number, ((relative, samples), line) in enumerate(zip(entries, lines, strict=False), start=1):
            where, labels = f"{file.with_suffix('.km')}, line {number}", line.split()
            if not all(label.isdecimal() and int(label) < 1 << 16 for label in labels):
                raise CorpusError(f"{where}: '{line[:40]}'; expected cluster numbers from 0 to 65535")
            seconds = samples / audio.RATE
            if not abs(len(labels) / LABEL_RATE - seconds) <= DURATION_SLACK:
                raise CorpusError(f"{where}: {len(labels)} labels for {seconds:.2f} s; expected {LABEL_RATE} a second")
            yield _name(relative), np.array(labels, dtype=np.uint16)


def _name(relative: str) -> str:
    return "-".join(Path(relative).with_suffix("").parts)


def _read_list(file: Path) -> tuple[Path, list[tuple[str, int]]]:
    lines = _text(file)
    while lines and not lines[-1]:
        lines.pop()
    if not lines or "\t" in lines[0]:
        raise CorpusError(f"{file}: not a list of fairseq's: its first line is the folder that the paths start from")
    entries = []
    for number, line in enumerate(lines[1:], start=2):
        path, _, samples = line.rpartition("\t")
        if not path or not samples.isdigit():
            raise CorpusError(f"{file}, line {number}: '{line[:60]}'; expected path<tab>samples")
        entries.append((path, int(samples)))
    return (file.parent / lines[0]).absolute(), entries


def _beside(file: Path, suffix: str, count: int) -> list[str] | None:
    labels = file.with_suffix(suffix)
    if not labels.is_file():
        return None
    lines = _text(labels)
    while len(lines) > count and not lines[-1].strip():  # no further: the last utterance's text may be empty
        lines.pop()
    if len(lines) != count:
        raise CorpusError(f"{labels}: {len(lines)} lines for {count} utterances of {file.name}; labels go by line")
    return lines


def _text(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise CorpusError(f"{file}: cannot be read as UTF-8 text ({error})") from None


# ---- Lhotse ----


def lhotse(splits: Mapping[str, Path], keep: Path) -> Iterator[Row]:
    """Yield the rows of Lhotse's cuts, of a supervisions manifest with its recordings beside it, or of a Shar folder.

    Args:
        keep: where audio is written to that no file holds as it is: Shar's as it lies in the shards, single channels
            of files with several, and what transforms (another speed) make, as FLAC.

    A supervision that does not span its cut becomes an utterance of its own. Raises CorpusError for mixed cuts, remote
    audio and supervisions that reach out of their cuts.
    """
    for split, path in splits.items():
        try:
            for cut in _cuts(path):
                for said in cut.supervisions or [None]:
                    yield _row(cut, said, split, path, keep)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
            raise CorpusError(f"{path}: not a manifest of Lhotse's ({_line(error)[:200] or repr(error)})") from None


def _cuts(path: Path) -> Iterator[Any]:
    from lhotse import CutSet, RecordingSet, SupervisionSet

    if path.is_dir():
        if not any(path.glob("cuts.*.jsonl*")):
            found = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
            raise CorpusError(f"{path}: expected a Shar folder with cuts.000000.jsonl.gz in it, found {found}")
        yield from CutSet.from_shar(in_dir=path)
    elif "supervisions" not in path.name:
        yield from _opened(CutSet, path)
    else:
        recordings = path.with_name(path.name.replace("supervisions", "recordings"))
        if not recordings.is_file():
            raise CorpusError(f"{recordings}: missing beside {path.name}")
        for cut in CutSet.from_manifests(_opened(RecordingSet, recordings), _opened(SupervisionSet, path)):
            if cut.supervisions:  # a recording that nothing is said of is no utterance, and a cut's id is Lhotse's own
                yield cut.with_id(cut.supervisions[0].id)


def _opened(kind: Any, path: Path) -> Any:  # noqa: ANN401 - lhotse ships no types
    found = kind.from_file(path)
    if not isinstance(found, kind):  # from_file returns None for an empty file, and whatever else it finds
        what = "an empty file" if found is None else f"a {type(found).__name__}"
        raise CorpusError(f"{path}: expected a {kind.__name__} of Lhotse's, found {what}")
    return found


def _row(cut: Any, said: Any, split: str, manifest: Path, keep: Path) -> Row:  # noqa: ANN401
    """Return the utterance of one supervision of a cut, or of a cut without any (None)."""
    kind = type(cut).__name__
    if kind not in {"MonoCut", "MultiCut"} or not cut.has_recording:
        raise CorpusError(f"{manifest}: '{cut.id}' is a {kind}; only plain cuts of recordings can be taken")
    name, start, seconds = _stretch(cut, said, manifest)
    aligned = ((said and said.alignment) or {}).get("phone", ())
    language = _line(said and said.language)
    row = Row(
        id=name, path=Path(), start=start, seconds=seconds, split=split,
        speaker=_line(said and said.speaker), text=_line(said and said.text),
        language="en" if language.lower() == "english" else language,
        phones=_line(((said and said.custom) or {}).get("phones")) or " ".join(one.symbol for one in aligned),
    )  # fmt: skip
    channel = said.channel if said and kind == "MultiCut" else cut.channel
    return _with_audio(row, cut.recording, {channel} if isinstance(channel, int) else set(channel), manifest, keep)


def _stretch(cut: Any, said: Any, manifest: Path) -> tuple[str, float, float]:  # noqa: ANN401
    """Return an utterance's id, and its start in the recording and length in seconds."""
    if not said or (len(cut.supervisions) == 1 and max(abs(said.start), abs(said.end - cut.duration)) <= SPAN_SLACK):
        return cut.id, cut.start, cut.duration
    if said.start < -DURATION_SLACK or said.end > cut.duration + DURATION_SLACK:
        place = f"{said.start:.2f} to {said.end:.2f} s of a cut of {cut.duration:.2f} s"
        raise CorpusError(f"{manifest}: supervision '{said.id}' goes from {place}; expected it inside")
    start = max(said.start, 0.0)
    return said.id, cut.start + start, min(said.end, cut.duration) - start


def _with_audio(row: Row, recording: Any, channels: set[int], manifest: Path, keep: Path) -> Row:  # noqa: ANN401
    """Return the row, whose start and seconds are the recording's, with the file that holds its audio."""
    sources = [one for one in recording.sources if channels & set(one.channels)]
    if len(sources) != 1 or sources[0].type not in {"file", "memory"}:
        kinds = ", ".join(one.type for one in sources) or f"other channels than {sorted(channels)}"
        raise CorpusError(f"{manifest}: '{row.id}' has audio of type {kinds}; expected one file")
    source = sources[0]
    if source.type == "file":
        path = Path(source.source)
        path = path if path.is_file() else manifest.parent / path
        if not path.is_file():
            return replace(row, path=path.absolute())  # whoever takes the rows counts or refuses those that are missing
        source.source = str(path)
    if recording.transforms or set(source.channels) != channels:
        try:
            made = _decoded(recording, channels, row)
        except Exception as error:
            raise CorpusError(f"{manifest}: the audio of '{row.id}' cannot be read ({_line(error)[:200]})") from error
        return replace(row, path=_store(keep / row.split, row.id, made), start=0.0, seconds=0.0)
    if source.type == "memory":
        path = _store(keep / row.split, recording.id, source.source)
    if abs(row.seconds - recording.duration) < 1 / recording.sampling_rate:
        row = replace(row, start=0.0, seconds=0.0)
    return replace(row, path=path.absolute())


def _decoded(recording: Any, channels: set[int], row: Row) -> bytes:  # noqa: ANN401
    """Return a row's stretch of some channels, transformed as the recording says, as a FLAC file."""
    import torch
    from lhotse.audio import save_audio

    samples = recording.load_audio(channels=channels, offset=row.start, duration=row.seconds)
    file = io.BytesIO()
    save_audio(file, torch.from_numpy(samples), recording.sampling_rate, format="flac")
    return file.getvalue()


# ---- Hugging Face ----


def hugging_face(
    name: str, config: str | None, keep: Path, *, text: str = "", speaker: str = "", language: str = ""
) -> Iterator[Row]:
    """Yield the rows of a dataset of Hugging Face, on disk (save_to_disk) or by its name on the hub.

    Args:
        keep: where its audio is written to, as it is; files that it only names stay where they are.
        text, speaker: columns; "" takes the first of TEXTS and SPEAKERS that there is. Their nulls become "".

    Raises ConfigError without the `datasets` package, CorpusError for a dataset or a row without audio.
    """
    parts, audio_kind = _open_dataset(name, config)
    for part, members in parts.items():
        columns = {key: type(kind).__name__ for key, kind in members.features.items()}
        heard = [key for key, kind in columns.items() if kind == "Audio"]
        if not heard:
            raise CorpusError(f"{name}: no column of audio; its columns: {', '.join(columns)}")
        for wanted in (text, speaker):
            if wanted and wanted not in columns:
                raise ConfigError(f"{name}: no column '{wanted}'; {hint(wanted, columns)}")
        words = text or next((key for key in TEXTS if key in columns), "")
        voice = speaker or next((key for key in SPEAKERS if key in columns), "")
        split = SAME.get(str(part), str(part))
        for number, one in enumerate(members.cast_column(heard[0], audio_kind)):
            said = _line(one.get("id")) or f"{split}-{number:07}"
            sound = one[heard[0]] or {}
            raw = sound.get("bytes")
            if raw is None and not sound.get("path"):
                raise CorpusError(f"{name}: '{said}', row {number} of {part}, has no audio; leave it out with filter()")
            yield Row(
                id=said, speaker=_line(one.get(voice)), text=_line(one.get(words)), language=language, split=split,
                path=Path(sound["path"]).absolute() if raw is None else _store(keep / split, said, raw),
            )  # fmt: skip


def _open_dataset(name: str, config: str | None) -> tuple[Mapping[Any, Any], Any]:
    """Return a dataset's parts by name, and the type of a column of audio that is not decoded."""
    try:
        import datasets
    except ImportError:
        raise ConfigError("prepare hf: needs the datasets package; pip install 'mt4ssl-bench[hf-data]'") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # or it warns of five retries, two lines each
    if not Path(name).is_dir():
        LOGGER.info("%s: no folder here, so the hub is asked; one out of reach takes half a minute", name)
    try:
        found = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, config)
    except ConnectionError as error:
        asked = f"'{name}', '{config}'" if config else f"'{name}'"
        fetch = f"datasets.load_dataset({asked}).save_to_disk('{Path(name).name}')"
        what = f"{name}: the hub is out of reach ({_line(error)[:200]})"
        raise CorpusError(f"{what}; run {fetch} elsewhere, copy that folder here and name it instead") from error
    except Exception as error:
        raise CorpusError(f"{name}: not a dataset that can be opened ({_line(error)[:200]})") from error
    return found if isinstance(found, dict) else {"train": found}, datasets.Audio(decode=False)


def _line(value: object) -> str:
    """Return a value in one line; nothing for None, which is how a missing one is said."""
    return "" if value is None else " ".join(str(value).split())


MAGIC = {b"fLaC": "flac", b"RIFF": "wav", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3", b"FORM": "aiff"}


def _store(folder: Path, name: str, content: bytes) -> Path:
    """Write audio into a folder, completely or not at all, and return its file."""
    suffix = next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "wav")
    # names may be alike once they are a file's: the digest keeps one's audio from taking the place of another's
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = (folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{digest}.{suffix}").absolute()
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with written(path) as file:
            file.write(content)
    return path
