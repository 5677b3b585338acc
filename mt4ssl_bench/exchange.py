"""Corpora of other toolkits as rows: fairseq's lists, Lhotse's manifests and Shar, datasets of Hugging Face."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mt4ssl_bench import audio
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.files import written
from mt4ssl_bench.manifest import SPLIT_NAME, Row
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
SAME = {"validation": "valid", "dev": "valid"}  # other names of our splits


def read_splits(given: Iterable[str]) -> dict[str, Path]:
    """Return "train=PATH" arguments as a table; raises ConfigError for anything else."""
    splits: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not path or not SPLIT_NAME.fullmatch(name):
            raise ConfigError(f"'{one}': expected SPLIT=PATH, for example train=data/train.tsv")
        if not Path(path).exists():
            raise CorpusError(f"{path}: no such file or folder")
        splits[name] = Path(path)
    if not splits:
        raise ConfigError("no split named; expected SPLIT=PATH, for example train=data/train.tsv")
    return splits


# ---- fairseq ----


def fairseq(splits: Mapping[str, Path]) -> Iterator[Row]:
    """Yield the rows of fairseq's .tsv lists, with the texts of .wrd or .ltr and the phones of .phn files beside them.

    A list holds its root in the first line, then "relative path<tab>samples" lines at 16 kHz, as HuBERT reads them.
    Labels belong to lines by number: a file of another length is an error.
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
                id=_name(relative),
                path=root / relative,
                stated=samples / audio.RATE,
                text=words[number] if words else "",
                phones=phones[number] if phones else "",
                split=split,
            )


def fairseq_labels(splits: Mapping[str, Path]) -> Iterator[tuple[str, list[int]]]:
    """Yield (utterance id, cluster ids) of the .km files beside fairseq's lists; nothing where there is none."""
    for file in splits.values():
        _, entries = _read_list(file)
        for (relative, _), line in zip(entries, _beside(file, ".km", len(entries)) or (), strict=False):
            try:
                yield _name(relative), [int(label) for label in line.split()]
            except ValueError:
                raise CorpusError(f"{file.with_suffix('.km')}: '{line[:40]}': expected cluster numbers") from None


def _name(relative: str) -> str:
    return "-".join(Path(relative).with_suffix("").parts)


def _read_list(file: Path) -> tuple[Path, list[tuple[str, int]]]:
    lines = _text(file)
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
    if len(lines) != count:
        raise CorpusError(f"{labels}: {len(lines)} lines for {count} utterances of {file.name}; labels go by line")
    return lines


def _text(file: Path) -> list[str]:
    try:
        return [line.strip("\r") for line in file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")]
    except (UnicodeDecodeError, OSError) as error:
        raise CorpusError(f"{file}: cannot be read as UTF-8 text ({error})") from None


# ---- Lhotse ----


def lhotse(splits: Mapping[str, Path], keep: Path) -> Iterator[Row]:
    """Yield the rows of Lhotse's cuts, of a supervisions manifest with its recordings beside it, or of a Shar folder.

    Args:
        keep: where the audio of Shar folders is unpacked to, as it is.

    A cut with several supervisions becomes one utterance for each. Raises CorpusError for mixed cuts and remote audio.
    """
    for split, path in splits.items():
        try:
            for cut in _cuts(path):
                for one in cut.trim_to_supervisions() if len(cut.supervisions) > 1 else [cut]:
                    yield _row(one, split, path, keep)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
            raise CorpusError(f"{path}: not a manifest of Lhotse's ({str(error)[:200]})") from None


def _cuts(path: Path) -> Any:  # noqa: ANN401 - lhotse ships no types
    from lhotse import CutSet, RecordingSet, SupervisionSet

    if path.is_dir():
        return CutSet.from_shar(in_dir=path)
    if "supervisions" not in path.name:
        return CutSet.from_file(path)
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if not recordings.is_file():
        raise CorpusError(f"{recordings}: missing beside {path.name}")
    made = CutSet.from_manifests(RecordingSet.from_file(recordings), SupervisionSet.from_file(path))
    return made.trim_to_supervisions(keep_overlapping=False)


def _row(cut: Any, split: str, manifest: Path, keep: Path) -> Row:  # noqa: ANN401
    if type(cut).__name__ not in {"MonoCut", "MultiCut"} or not cut.has_recording:
        raise CorpusError(
            f"{manifest}: '{cut.id}' is a {type(cut).__name__}; only plain cuts of recordings can be taken"
        )
    sources = cut.recording.sources
    if len(sources) != 1 or sources[0].type not in {"file", "memory"}:
        kinds = ", ".join(source.type for source in sources)
        raise CorpusError(f"{manifest}: '{cut.id}' has audio of type {kinds}; expected one file")
    if sources[0].type == "memory":
        path = keep / split / f"{_name(cut.id.replace('..', '_'))}.{_suffix(sources[0].source)}"
        _store(path, sources[0].source)
    else:
        path = Path(sources[0].source)
        path = path if path.is_file() else manifest.parent / path
    whole = abs(cut.duration - cut.recording.duration) < 1 / cut.sampling_rate
    said = cut.supervisions[0] if cut.supervisions else None
    aligned = (said.alignment or {}).get("phone", ()) if said else ()
    language = (said.language or "") if said else ""
    return Row(
        id=cut.id,
        path=path.absolute(),
        start=0.0 if whole else cut.start,
        seconds=0.0 if whole else cut.duration,
        speaker=(said.speaker or "") if said else "",
        language="en" if language.lower() == "english" else language,
        text=" ".join((said.text or "").split()) if said else "",
        phones=str(((said.custom or {}) if said else {}).get("phones", "")) or " ".join(one.symbol for one in aligned),
        split=split,
    )


# ---- Hugging Face ----


def hugging_face(
    name: str, config: str | None, keep: Path, *, text: str = "", speaker: str = "", language: str = ""
) -> Iterator[Row]:
    """Yield the rows of a dataset of Hugging Face, on disk (save_to_disk) or by its name on the hub.

    Args:
        keep: where its audio is written to, as it is; files that it only names stay where they are.
        text, speaker: columns; "" takes the first of TEXTS and SPEAKERS that there is.

    Raises ConfigError without the `datasets` package, CorpusError for a dataset without audio.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError("prepare hf: needs the datasets package; pip install 'mt4ssl-bench[hf-data]'") from None
    try:
        found = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, config)
    except Exception as error:
        raise CorpusError(f"{name}: not a dataset that can be opened ({str(error)[:200]})") from error
    parts = found if isinstance(found, dict) else {"train": found}
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
        raw = members.cast_column(heard[0], datasets.Audio(decode=False))
        split = SAME.get(str(part), str(part))
        for number, one in enumerate(raw):
            said = str(one.get("id") or f"{split}-{number:07}")
            yield Row(
                id=said,
                path=_audio_of(one[heard[0]], keep / split / f"{_name(said.replace('..', '_'))}"),
                speaker=str(one[voice]) if voice else "",
                text=" ".join(str(one[words]).split()) if words else "",
                language=language,
                split=split,
            )


def _audio_of(value: Mapping[str, Any], target: Path) -> Path:
    """Return where a dataset's audio lies, writing it there when it lies inside the dataset."""
    if value.get("bytes") is None:
        return Path(value["path"]).absolute()
    path = target.with_name(f"{target.name}.{_suffix(value['bytes'])}")
    _store(path, value["bytes"])
    return path.absolute()


MAGIC = {b"fLaC": "flac", b"RIFF": "wav", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3", b"FORM": "aiff"}


def _suffix(content: bytes) -> str:
    return next((suffix for magic, suffix in MAGIC.items() if content.startswith(magic)), "wav")


def _store(path: Path, content: bytes) -> None:
    """Write a file, completely or not at all; one of the same length is taken to be it."""
    if path.is_file() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write(content)
