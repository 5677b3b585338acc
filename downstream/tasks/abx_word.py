"""Word ABX: how well each layer discriminates words, without training.

Words are time-aligned ("turns:words"), or each utterance is one word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mt4ssl_bench.abx.items import Dropped, Token, single_words, speakers_in, turns_in, word_tokens
from mt4ssl_bench.data.cut import Cut, field_of
from mt4ssl_bench.downstream.config import BaseConfig
from mt4ssl_bench.downstream.tasks.abx import ABX, TripletConfig
from mt4ssl_bench.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class WordConfig(TripletConfig):
    """The keys of word ABX."""

    words: str = "text"  # text or a label, for utterances of one word; or turns:<tier>


class WordABX(ABX):
    """Word ABX, which needs no phones; not comparable with phone ABX, as words differ more."""

    name: ClassVar[str] = "abx_word"
    Config: ClassVar[type[TripletConfig]] = WordConfig
    reads: ClassVar[tuple[str, ...]] = ("speaker", "text")

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:
        """See ABX.fields."""
        assert isinstance(config, WordConfig)
        return () if config.items else ("speaker", config.words)

    def aligned(self, cuts: Sequence[Cut]) -> tuple[list[Token], Dropped]:
        """See ABX.aligned."""
        assert isinstance(self.config, WordConfig)
        field = self.config.words
        if field.startswith("turns:"):
            return word_tokens(turns_in(cuts, field.removeprefix("turns:")), speakers_in(cuts))
        words = {cut.id: field_of(cut, field) for cut in cuts}
        if several := [name for name, text in words.items() if len(text.split()) > 1]:
            raise CorpusError(
                f"abx_word: {len(several)} of {len(words)} texts are of several words, the first "
                f"is that of '{several[0]}'; expected one word each, or time-aligned words and "
                "words=turns:words"
            )
        alignment = single_words(words, {cut.id: cut.duration for cut in cuts})
        return word_tokens(alignment, speakers_in(cuts))


TASK = WordABX
