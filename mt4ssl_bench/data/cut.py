"""A cut, one utterance of Lhotse, by the attributes that are read here.

Lhotse ships no types.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mt4ssl_bench.settings import Json

SHARDED_LABELS = "utterance_labels"  # where shards keep them: their "labels" are cluster ids
SLOTS = "slots"  # the label that has one value for each word of the text
FOLD = "fold"  # the label that deals a corpus over folds, and names the fold of an answer
SPOKEN = frozenset(["text", "phones", SLOTS])  # fields that are empty where nobody speaks


class Turn(NamedTuple):
    """Somebody or something from `start` to `end`, in seconds."""

    start: float
    end: float
    label: str


class AudioSource(Protocol):
    """Where audio lies: a "file" or "url" called `source`, or bytes in "memory"."""

    type: str
    source: str | bytes


class Recording(Protocol):
    """A whole audio file; `duration` is in seconds."""

    sources: Sequence[AudioSource]
    sampling_rate: int
    num_samples: int
    duration: float

    @property
    def num_channels(self) -> int:
        """The number of channels."""
        ...


class Supervision(Protocol):
    """What is known of the speech in a cut."""

    text: str | None
    speaker: str | None
    language: str | None
    custom: Mapping[str, Json] | None


class Cut(Protocol):
    """One utterance: `duration` seconds of its recording, from `start` on."""

    id: str
    start: float
    duration: float
    recording: Recording
    supervisions: Sequence[Supervision]
    custom: Mapping[str, Json] | None

    def to_dict(self) -> dict[str, Json]:
        """Return the cut as a manifest has it."""
        ...

    def with_custom(self, name: str, value: Json) -> "Cut":
        """Return a copy with another custom field."""
        ...

    def attach_tensor(self, name: str, data: NDArray[np.generic]) -> "Cut":
        """Return a copy with an array as a custom field."""
        ...

    def load_custom(self, name: str) -> NDArray[np.generic]:
        """Return the array of a custom field."""
        ...

    def truncate(self, *, offset: float, duration: float, preserve_id: bool) -> "Cut":
        """Return the part from `offset` on, both in seconds."""
        ...


def text_of(cut: Cut) -> str:
    """Return the cut's transcript, or ""."""
    return (cut.supervisions[0].text or "") if cut.supervisions else ""


def phones_of(cut: Cut) -> str:
    """Return the cut's phones, separated by spaces, or ""."""
    return str((cut.supervisions[0].custom or {}).get("phones", "")) if cut.supervisions else ""


def is_silent(cut: Cut) -> bool:
    """Return whether nobody speaks in the cut: its transcript is there, and empty."""
    return bool(cut.supervisions) and cut.supervisions[0].text == ""


def speaker_of(cut: Cut) -> str:
    """Return the cut's speaker, or ""."""
    return (cut.supervisions[0].speaker or "") if cut.supervisions else ""


def labels_of(cut: Cut) -> Mapping[str, str]:
    """Return the cut's labels (emotion, intent, fold, ...) by name."""
    labels = _custom(cut, "labels") or _custom(cut, SHARDED_LABELS)
    return {name: str(label) for name, label in labels.items()}


def label_of(cut: Cut, name: str) -> str:
    """Return one label of the cut, or ""."""
    return labels_of(cut).get(name, "")


def field_of(cut: Cut, name: str) -> str:
    """Return the cut's text, phones, speaker or label of that name, or ""."""
    own = {"text": text_of, "phones": phones_of, "speaker": speaker_of}.get(name)
    return own(cut) if own else label_of(cut, name)


def turns_of(cut: Cut, tier: str) -> tuple[Turn, ...]:
    """Return the turns of a tier ("speakers", "phones", ...) that touch the cut.

    Times are in seconds from the cut's start, cut off at its borders.
    """
    turns = (
        Turn(max(turn.start - cut.start, 0.0), min(turn.end - cut.start, cut.duration), turn.label)
        for turn in stored_turns(cut).get(tier, ())
    )
    return tuple(turn for turn in turns if turn.start < turn.end)


def stored_turns(cut: Cut) -> Mapping[str, Sequence[Turn]]:
    """Return the turns by tier as they are stored: in seconds from the start of the recording."""
    stored = cast("Mapping[str, Sequence[tuple[float, float, str]]]", _custom(cut, "turns"))
    return {tier: [Turn(*turn) for turn in turns] for tier, turns in stored.items()}


def others_of(cut: Cut) -> Mapping[str, Path]:
    """Return the files of other audio of the same length by name: "clean", "s1", ..."""
    return {name: Path(str(file["source"])) for name, file in other_files(cut).items()}


def other_files(cut: Cut) -> Mapping[str, Mapping[str, Json]]:
    """Return what is stored of other audio by name; see file_state.py."""
    return cast("Mapping[str, Mapping[str, Json]]", _custom(cut, "others"))


def _custom(cut: Cut, key: str) -> Mapping[str, Json]:
    """Return a mapping of the cut's custom fields; in shards, "labels" may be an array."""
    value = (cut.custom or {}).get(key)
    return value if isinstance(value, Mapping) else {}
