"""A cut, one utterance as Lhotse has it, by the attributes that are read here; Lhotse ships no
types.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


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
    """Return the cut's labels by name."""
    labels = (getattr(cut, "custom", None) or {}).get("labels", {})
    return (
        {name: str(value) for name, value in labels.items()} if isinstance(labels, Mapping) else {}
    )


def field_of(cut: Cut, name: str) -> str:
    """Return a field of the cut, or "": text, phones, speaker or the label of that name."""
    if name in {"text", "phones", "speaker"}:
        return {"text": text_of, "phones": phones_of, "speaker": speaker_of}[name](cut)
    return labels_of(cut).get(name, "")
