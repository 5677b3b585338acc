"""The mappings in a record's file: model, corpus, splits and the heads of the sweep."""

from typing import NotRequired, TypedDict


class UpstreamRecord(TypedDict):
    """The evaluated model; `former` lists its fingerprints of scheme 1, `stride` is in samples."""

    name: str
    fingerprint: str
    parameters: int
    num_layers: int
    dim: int
    stride: int
    former: NotRequired[list[str]]


class SplitRecord(TypedDict):
    """The size of one split."""

    utterances: int
    hours: float


class CorpusRecord(TypedDict):
    """The corpus, with the splits that the task used by role ("train", "valid", "test")."""

    name: str
    digest: str
    languages: list[str]
    synthetic: bool
    splits: dict[str, SplitRecord]


class LayerScore(TypedDict):
    """A metric of one layer with its 95 % interval."""

    value: float
    low: float
    high: float


class Trial(TypedDict):
    """One head of the sweep; `valid` is its score on validation, None if it diverged."""

    lr: float
    seed: int
    valid: float | None
    steps: int
    chosen: bool
