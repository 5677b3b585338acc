"""Speaker ABX: how well each layer discriminates speakers in the same phone, without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mt4ssl_bench.abx.intervals import Over
from mt4ssl_bench.abx.items import Dropped, Token, speaker_tokens
from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.tasks.abx import ABX, PhoneConfig, TripletConfig


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig(PhoneConfig):
    """The keys of speaker ABX: "within" compares speakers in the same phone."""

    modes: tuple[str, ...] = ("within",)  # within: all three tokens are of one phone


class SpeakerABX(ABX):
    """Speaker ABX: the categories are speakers, and the phone is kept constant."""

    name: ClassVar[str] = "abx_speaker"
    Config: ClassVar[type[TripletConfig]] = SpeakerConfig
    over: ClassVar[Over] = "categories"

    def tokens(self, cuts: Sequence[Cut]) -> tuple[list[Token], Dropped]:
        """See ABX.tokens."""
        tokens, dropped = super().tokens(cuts)
        return speaker_tokens(tokens), dropped


TASK = SpeakerABX
