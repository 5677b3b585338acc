"""Datasets of Hugging Face as rows, from a folder or by name on the hub."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mt4ssl_bench.corpora.audio_files import keep_audio
from mt4ssl_bench.corpora.rows import Row, one_line
from mt4ssl_bench.errors import ConfigError, CorpusError
from mt4ssl_bench.registry import hint

LOGGER = logging.getLogger(__name__)
TEXTS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SPEAKERS = ("speaker_id", "speaker", "client_id")
SAME = {"validation": "valid", "dev": "valid"}  # other names of our splits


def hugging_face(
    name: str,
    config: str | None,
    keep: Path,
    *,
    text: str = "",
    speaker: str = "",
    language: str = "",
) -> Iterator[Row]:
    """Yield the rows of a dataset of Hugging Face, on disk (save_to_disk) or by its name on the
    hub.

    Args:
        keep: where its audio is written to, as it is; files that it only names stay where they are.
        text, speaker: columns; "" takes the first of TEXTS and SPEAKERS that there is. A null is a
            missing value; an empty text says that nobody speaks.

    A row is named by its id, or by split and number where ids repeat, as those of FLEURS' sentences
    do.

    Raises ConfigError without the `datasets` package, CorpusError for a dataset or a row without
    audio.
    """
    parts, audio_kind = _open_dataset(name, config)
    apart = _ids_differ(parts)
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
            said = (apart and one_line(one.get("id"))) or f"{split}-{number:07}"
            sound = one[heard[0]] or {}
            raw = sound.get("bytes")
            if raw is None and not sound.get("path"):
                raise CorpusError(
                    f"{name}: '{said}', row {number} of {part}, has no audio; leave it out with "
                    "filter()"
                )
            transcript = one.get(words)
            yield Row(
                id=said,
                speaker=one_line(one.get(voice)),
                text=one_line(transcript),
                language=language,
                silent=transcript is not None and not one_line(transcript),
                split=split,
                path=Path(sound["path"]).absolute()
                if raw is None
                else keep_audio(keep / split, said, raw),
            )


def _ids_differ(parts: Mapping[Any, Any]) -> bool:
    """Return whether no two rows have one id."""
    ids = [
        one_line(value) for part in parts.values() if "id" in part.features for value in part["id"]
    ]
    found: Counter[str] = Counter(filter(None, ids))
    again = found.total() - len(found)
    if again:
        LOGGER.info(
            "%d rows have the id of another one, so all are named by split and number", again
        )
    return not again


def _open_dataset(name: str, config: str | None) -> tuple[Mapping[Any, Any], Any]:
    """Return a dataset's parts by name, and the type of a column of audio that is not decoded."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "prepare hf: needs the datasets package; pip install 'mt4ssl-bench[hf-data]'"
        ) from None
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # or it warns of five retries, two lines each
    if not Path(name).is_dir():
        LOGGER.info(
            "%s: no folder here, so the hub is asked; one out of reach takes half a minute", name
        )
    try:
        found = (
            datasets.load_from_disk(name)
            if Path(name).is_dir()
            else datasets.load_dataset(name, config)
        )
    except ConnectionError as error:
        asked = f"'{name}', '{config}'" if config else f"'{name}'"
        fetch = f"datasets.load_dataset({asked}).save_to_disk('{Path(name).name}')"
        what = f"{name}: the hub is out of reach ({one_line(error)[:200]})"
        raise CorpusError(
            f"{what}; run {fetch} elsewhere, copy that folder here and name it instead"
        ) from error
    except Exception as error:
        raise CorpusError(
            f"{name}: not a dataset that can be opened ({one_line(error)[:200]})"
        ) from error
    return found if isinstance(found, dict) else {"train": found}, datasets.Audio(decode=False)
