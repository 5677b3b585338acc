"""The mappings in a record's file: model, corpus, splits and the heads of the sweep."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from mt4ssl_bench.data.corpus_info import CorpusInfo, SplitInfo

ABOUT = frozenset(["source", "citation", "homepage"])  # of notes that other fields hold, or none


class UpstreamRecord(TypedDict):
    """The evaluated model.

    `former` lists its fingerprints of scheme 1, `stride` is in samples, `origin` says where its
    weights come from (encoders/origin.py).
    """

    name: str
    fingerprint: str
    parameters: int
    num_layers: int
    dim: int
    stride: int
    former: NotRequired[list[str]]
    origin: NotRequired[dict[str, str]]


class SplitRecord(TypedDict):
    """The size of one split."""

    utterances: int
    hours: float


class CorpusRecord(TypedDict):
    """The corpus, with the splits that the task used by role ("train", "valid", "test").

    `source` is the name of the source that it was prepared by, `folder` that of its folder. `notes`
    are texts that the source noted in corpus.json, such as parts and languages. `phones_from` names
    the lexicons that gave it phones. `left_out` is the number of utterances, and rows of lists,
    that its preparation left out.
    """

    name: str
    digest: str
    languages: list[str]
    synthetic: bool
    splits: dict[str, SplitRecord]
    source: NotRequired[str]
    folder: NotRequired[str]
    notes: NotRequired[dict[str, str]]
    phones_from: NotRequired[str]
    left_out: NotRequired[int]


class LayerScore(TypedDict):
    """A metric of one layer with its 95 % interval.

    `layer` stands where heads were trained on some layers; without it, scores are of 0, 1, ...
    `valid` is the main metric on validation. `spread` is the standard deviation over `samples`
    samples of what is compared, where it is too much to compare all.
    """

    value: float
    low: float
    high: float
    layer: NotRequired[int]
    valid: NotRequired[float]
    spread: NotRequired[float]
    samples: NotRequired[int]


class Trial(TypedDict):
    """One head of the sweep; `valid` is its score on validation, None if it diverged.

    `layer` is the hidden state that it reads, where it reads only one.
    """

    lr: float
    seed: int
    layer: NotRequired[int]
    valid: float | None
    steps: int
    chosen: bool


def corpus_record(info: CorpusInfo, sizes: Mapping[str, SplitInfo], folder: str) -> CorpusRecord:
    """Return the part of a record about its corpus.

    Args:
        info: Of the corpus.
        sizes: Of its splits, by role.
        folder: Name of its folder.
    """
    notes = info.notes
    record: CorpusRecord = {
        "name": info.name,
        "digest": info.digest,
        "languages": info.languages,
        "synthetic": info.synthetic,
        "splits": {
            role: {"utterances": size.utterances, "hours": size.hours}
            for role, size in sizes.items()
        },
    }
    if source := notes.get("source"):
        record["source"] = str(source)
    record["folder"] = folder
    record["notes"] = {
        key: text for key, text in notes.items() if isinstance(text, str) and key not in ABOUT
    }
    record["phones_from"] = info.phones_from
    record["left_out"] = sum(n for name, n in notes.items() if f"{name}_examples" in notes)
    return record
