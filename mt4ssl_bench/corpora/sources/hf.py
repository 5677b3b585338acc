"""Datasets of Hugging Face as rows, from a folder or by name on the hub."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from mt4ssl_bench.corpora.audio_files import keep_audio
from mt4ssl_bench.corpora.rows import Row, one_line
from mt4ssl_bench.corpora.source import Options, Source, Takes
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.registry import hint
from mt4ssl_bench.wheels import missing

LOGGER = logging.getLogger(__name__)
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
SAME = {"validation": "valid", "dev": "valid"}  # other names of our splits


class Part(Protocol):
    """One split of a dataset, as the datasets library has it."""

    features: Mapping[str, object]

    def __getitem__(self, column: str) -> Iterable[object]: ...

    def __iter__(self) -> Iterator[Mapping[str, object]]: ...

    def cast_column(self, column: str, feature: object) -> "Part":
        """Return the split with another type of one column."""
        ...


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Options):
    """Columns of a dataset, and what it does not state."""

    config: Annotated[str | None, "Configuration of the dataset."] = None
    text: Annotated[
        str, "Column of the texts. Default: the first of text, sentence, transcription, ..."
    ] = ""
    speaker: Annotated[
        str, "Column of the speakers. Default: the first of speaker_id, speaker, client_id."
    ] = ""
    language: Annotated[str, "Language of all texts. English texts get phones from CMUdict."] = "en"


def read(root: Path, options: HuggingFace) -> Iterator[Row]:
    """Yield the rows of a dataset, on disk (save_to_disk) or by its name on the hub.

    Audio is written to `options.audio` as it is; files that the dataset only names stay where they
    are. A null is a missing value; an empty text states that nobody speaks. A row is named by its
    id, or by split and number where ids repeat, as those of FLEURS' sentences do.

    Raises:
        ConfigError: If the `datasets` package is missing, or a column.
        CorpusError: If the dataset cannot be opened, or a row has no audio.
    """
    name = str(root)
    parts, audio_kind = _open_dataset(name, options.config)
    unique = _ids_differ(parts)
    for part, members in parts.items():
        columns = {key: type(kind).__name__ for key, kind in members.features.items()}
        sounds = [key for key, kind in columns.items() if kind == "Audio"]
        if not sounds:
            raise CorpusError(f"{name}: no column of audio; its columns: {', '.join(columns)}")
        for wanted in (options.text, options.speaker):
            if wanted and wanted not in columns:
                raise ConfigError(f"{name}: no column '{wanted}'; {hint(wanted, columns)}")
        texts = options.text or next((key for key in TEXTS if key in columns), "")
        speakers = options.speaker or next((key for key in SPEAKERS if key in columns), "")
        split = SAME.get(str(part), str(part))
        for number, entry in enumerate(members.cast_column(sounds[0], audio_kind)):
            utterance = (unique and one_line(entry.get("id"))) or f"{split}-{number:07}"
            file = _audio(entry[sounds[0]], options.audio / split, utterance)
            if file is None:
                raise CorpusError(
                    f"{name}: '{utterance}', row {number} of {part}, has no audio; leave it out "
                    "with filter()"
                )
            text = entry.get(texts)
            yield Row(
                id=utterance,
                speaker=one_line(entry.get(speakers)),
                text=one_line(text),
                language=options.language,
                silent=text is not None and not one_line(text),
                split=split,
                path=file,
            )


def _audio(value: object, folder: Path, utterance: str) -> Path | None:
    """Return the file of a cell of audio, written into `folder` if the dataset holds its bytes."""
    cell = value if isinstance(value, dict) else {}
    if (raw := cell.get("bytes")) is not None:
        return keep_audio(folder, utterance, raw)
    return Path(cell["path"]).absolute() if cell.get("path") else None


def _ids_differ(parts: Mapping[str, Part]) -> bool:
    """Return whether no two rows have one id."""
    ids = [
        one_line(value) for part in parts.values() if "id" in part.features for value in part["id"]
    ]
    counts = Counter(filter(None, ids))
    duplicates = counts.total() - len(counts)
    if duplicates:
        LOGGER.info(
            "%d rows have duplicate ids; using <split>-<row number> as the id of every row",
            duplicates,
        )
    return not duplicates


def _open_dataset(name: str, config: str | None) -> tuple[Mapping[str, Part], object]:
    """Return a dataset's splits, and the type of a column of audio that is not decoded."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(missing("prepare hf", "hf-data", error)) from None
    # the library warns of five retries, two lines each
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not Path(name).is_dir():
        LOGGER.info(
            "%s: no such folder, asking the hub; without a network this takes half a minute", name
        )
    try:
        dataset = (
            datasets.load_from_disk(name)
            if Path(name).is_dir()
            else datasets.load_dataset(name, config)
        )
    except ConnectionError as error:
        asked = f"'{name}', '{config}'" if config else f"'{name}'"
        fetch = f"datasets.load_dataset({asked}).save_to_disk('{Path(name).name}')"
        raise CorpusError(
            f"{name}: the hub is out of reach ({one_line(error)[:200]}); run {fetch} elsewhere, "
            "copy that folder here and name it instead"
        ) from error
    except Exception as error:
        raise CorpusError(
            f"{name}: not a dataset that can be opened ({one_line(error)[:200]})"
        ) from error
    parts = dataset if isinstance(dataset, dict) else {"train": dataset}
    return parts, datasets.Audio(decode=False)


SOURCE = Source(
    name="hf",
    about="A dataset of Hugging Face, by its name or on disk (extra: hf-data)",
    read=read,
    options=HuggingFace,
    takes=Takes("path", "DATASET", "Name on the hub, or a folder of save_to_disk."),
    help="Audio is written to <out>/audio as it is. Needs the extra hf-data.",
    examples=("hf google/fleurs --config en_us --text transcription --out corpora/fleurs",),
    tasks="as its columns allow",
)
