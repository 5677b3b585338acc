"""Speaker identification: one label, the speaker."""

from dataclasses import dataclass, field
from typing import ClassVar

from mt4ssl_bench.downstream.heads.labels import LabelConfig, LabelTask
from mt4ssl_bench.settings import FROZEN


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig(LabelConfig):
    """The keys of speaker identification."""

    crop_seconds: float = 8.0  # length of the random crops in training; 0: whole utterances
    crops: int = field(default=4, metadata=FROZEN)  # number of crops that are stored per utterance


class Speaker(LabelTask):
    """SUPERB's SID."""

    name: ClassVar[str] = "speaker"
    superb: ClassVar[str] = "SID"
    labels: ClassVar[tuple[str, ...]] = ("speaker",)
    splits: ClassVar[str] = "sid_"
    Config: ClassVar[type[LabelConfig]] = SpeakerConfig


TASK = Speaker
