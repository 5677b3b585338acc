"""Speech recognition: LSTM head, CTC over characters or pieces, word and character error rates."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from mt4ssl_bench.corpus import text_of
from mt4ssl_bench.downstream.ctc import CTCTask
from mt4ssl_bench.downstream.heads import RecurrentHead
from mt4ssl_bench.downstream.units import Characters, Pieces, Units
from mt4ssl_bench.lexicon import plain_apostrophes
from mt4ssl_bench.metrics import Score, error_counts, error_rate


class ASR(CTCTask):
    """SUPERB's ASR, without a language model."""

    name: ClassVar[str] = "asr"
    metric: ClassVar[str] = "wer"
    version: ClassVar[int] = 2  # 2: SpecAugment draws as s3prl does
    needs: ClassVar[str] = "text"
    unit_kinds: ClassVar[tuple[str, ...]] = ("characters", "sentencepiece")

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return characters or sentencepiece units, as the recipe asks."""
        self.words = sorted({word for text in texts for word in text.split()})
        if self.config.units == "sentencepiece":
            return Pieces.train(texts, self.config.vocabulary)
        return Characters(texts)

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a RecurrentHead."""
        return RecurrentHead(num_layers, dim, self.outputs, self.config.head)

    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return the characters of the transcript."""
        return list(self.reference(cut))

    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return the transcript in upper case, with one spelling of the apostrophe."""
        return plain_apostrophes(text_of(cut)).upper()

    def score(
        self, references: list[str], hypotheses: list[str], speakers: list[str] | None
    ) -> dict[str, Score]:
        """Return word and character error rates."""
        return {
            "wer": error_rate(error_counts(references, hypotheses, by="words"), speakers=speakers),
            "cer": error_rate(
                error_counts(references, hypotheses, by="characters"), speakers=speakers
            ),
        }
