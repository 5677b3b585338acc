"""The mappings in a record's file: model, corpus, splits and the heads of the sweep."""

from typing import NotRequired, TypedDict


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

    `source` is the name of the source that it was prepared by, `folder` that of its folder.
    """

    name: str
    digest: str
    languages: list[str]
    synthetic: bool
    splits: dict[str, SplitRecord]
    source: NotRequired[str]
    folder: NotRequired[str]


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
