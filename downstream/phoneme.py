"""Phoneme recognition: frame-level linear head, CTC, phoneme error rate."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from mt4ssl_bench.corpus import phones_of
from mt4ssl_bench.downstream.ctc import CTCTask
from mt4ssl_bench.downstream.heads import LinearHead
from mt4ssl_bench.downstream.units import Phonemes, Units, drop_stress
from mt4ssl_bench.metrics import Score, error_counts, error_rate


class Phoneme(CTCTask):
    """SUPERB's PR."""

    name: ClassVar[str] = "phoneme"
    metric: ClassVar[str] = "per"
    version: ClassVar[int] = 1
    needs: ClassVar[str] = "phones"

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return every phoneme of the training split."""
        return Phonemes(texts)

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a LinearHead."""
        return LinearHead(num_layers, dim, len(self.fitted), self.config.head)

    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return the cut's phonemes."""
        return self.reference(cut).split()

    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return the cut's phones, stress kept or dropped as the recipe says."""
        phones = phones_of(cut)
        return phones if self.config.stress == "keep" else drop_stress(phones)

    def score(self, references: list[str], hypotheses: list[str], speakers: list[str] | None) -> dict[str, Score]:
        """Return the phoneme error rate."""
        return {"per": error_rate(error_counts(references, hypotheses, by="words"), speakers=speakers)}
