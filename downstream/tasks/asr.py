"""Speech recognition: LSTM head, CTC over characters or pieces, word and character error rates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from mt4ssl_bench.config import AT_LEAST_1, Bounds
from mt4ssl_bench.data.cut import Cut, text_of
from mt4ssl_bench.data.lexicon import plain_apostrophes
from mt4ssl_bench.downstream.config import CTCConfig, RecurrentHeadConfig, WordDecodeConfig
from mt4ssl_bench.downstream.heads.ctc import CTCTask
from mt4ssl_bench.downstream.heads.pieces import NORMALIZATION, Pieces
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.units import Characters, Units
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.settings import FROZEN, Settings


@dataclass(frozen=True, kw_only=True)
class ASRConfig(CTCConfig):
    """The keys of speech recognition."""

    head: RecurrentHeadConfig = field(default_factory=RecurrentHeadConfig, metadata=FROZEN)
    units: Literal["characters", "sentencepiece"] = "characters"  # what CTC predicts
    vocabulary: int = 1000  # number of sentencepiece units
    decode: WordDecodeConfig = field(default_factory=WordDecodeConfig)

    BOUNDS: ClassVar[Bounds] = {AT_LEAST_1: "vocabulary"}

    def unread(self) -> set[str]:
        """See TaskConfig.unread."""
        return super().unread() | (set() if self.units == "sentencepiece" else {"vocabulary"})

    def identity(self) -> Settings:
        """See BaseConfig.identity; pieces of earlier records were of NFKC-normalized texts."""
        own = {"normalization": NORMALIZATION} if self.units == "sentencepiece" else {}
        return super().identity() | own


class ASR(CTCTask):
    """SUPERB's ASR; with decode.lm also by beam search."""

    name: ClassVar[str] = "asr"
    superb: ClassVar[str] = "ASR"
    version: ClassVar[int] = 2  # 2: SpecAugment draws as s3prl does
    metrics: ClassVar[tuple[str | Metric, ...]] = ("wer", "cer")
    reads: ClassVar[tuple[str, ...]] = ("text",)
    Config: ClassVar[type[ASRConfig]] = ASRConfig
    config: ASRConfig

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return characters or sentencepiece units, as the recipe asks."""
        self.words = sorted({word for text in texts for word in text.split()})
        if self.config.units == "sentencepiece":
            return Pieces.train(texts, self.config.vocabulary)
        return Characters(texts)

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a RecurrentHead."""
        return RecurrentHead(num_layers, dim, self.outputs, self.config.head)

    def units_in(self, cut: Cut) -> list[str]:
        """Return the characters of the transcript."""
        return list(self.reference(cut))

    def reference(self, cut: Cut) -> str:
        """Return the transcript in upper case, with one spelling of the apostrophe."""
        return plain_apostrophes(text_of(cut)).upper()


TASK = ASR
