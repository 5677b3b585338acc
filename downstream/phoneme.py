"""Phoneme recognition: frame-level linear head, CTC, phoneme error rate."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from mt4ssl_bench.corpus import phones_of, text_of
from mt4ssl_bench.downstream.ctc import CTCTask
from mt4ssl_bench.downstream.heads import LinearHead
from mt4ssl_bench.downstream.nearest import nearest
from mt4ssl_bench.downstream.task import TaskConfig
from mt4ssl_bench.downstream.units import Phonemes, Units, drop_stress
from mt4ssl_bench.lexicon import UNKNOWN, Words, named_lexicon, pronounce, pronunciations
from mt4ssl_bench.metrics import METRICS, Score

LOGGER = logging.getLogger(__name__)


class Phoneme(CTCTask):
    """SUPERB's PR."""

    name: ClassVar[str] = "phoneme"
    metric: ClassVar[str] = "per"
    version: ClassVar[int] = 1
    needs: ClassVar[str] = "phones"
    unit_kinds: ClassVar[tuple[str, ...]] = ("phonemes",)

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.lexicon: Words = {}
        self.missing: Counter[str] = Counter()

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return every phoneme of the training split."""
        return Phonemes(texts)

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a LinearHead."""
        return LinearHead(num_layers, dim, self.outputs, self.config.head)

    @classmethod
    def reads(cls, config: TaskConfig) -> str:
        """See Task.reads: the text, where the recipe's lexicon makes phones of it."""
        return "text" if config.lexicon else cls.needs

    def fit_units(self, cuts: Sequence[Any]) -> None:
        """See Task.fit_units; says how many words the lexicon lacks."""
        if self.config.lexicon:
            self.lexicon = named_lexicon(self.config.lexicon).words
        self.missing.clear()
        super().fit_units(cuts)
        if self.missing:
            examples = ", ".join(word for word, _ in self.missing.most_common(5))
            LOGGER.warning(
                "lexicon=%s: %d words of the training text are not in it (%s), %d times; they become %s",
                self.config.lexicon, len(self.missing), examples, self.missing.total(), UNKNOWN,
            )  # fmt: skip

    def units_in(self, cut: Any) -> list[str]:  # noqa: ANN401
        """Return the cut's phonemes."""
        return self.reference(cut).split()

    def reference(self, cut: Any) -> str:  # noqa: ANN401 - lhotse ships no types
        """Return the cut's phones, stress kept or dropped as the recipe says."""
        phones = (
            pronounce(text_of(cut), self.lexicon, self.missing)
            if self.config.lexicon
            else phones_of(cut)
        )
        return self._stressed(phones)

    def references(self, cuts: Sequence[Any], hypotheses: Sequence[str]) -> list[str]:
        """See Task.references: each word in the pronunciation that fits best, where the recipe says all."""
        if self.config.pronunciations == "first":
            return super().references(cuts, hypotheses)
        return [
            nearest(self._variants(cut), said) for cut, said in zip(cuts, hypotheses, strict=True)
        ]

    def _variants(self, cut: Any) -> list[list[str]]:  # noqa: ANN401
        words = pronunciations(text_of(cut), self.lexicon, self.missing)
        return [[self._stressed(phones) for phones in variants] for variants in words]

    def _stressed(self, phones: str) -> str:
        return phones if self.config.stress == "keep" else drop_stress(phones)

    def score(
        self, references: list[str], hypotheses: list[str], speakers: list[str] | None
    ) -> dict[str, Score]:
        """Return the phoneme error rate."""
        return {"per": METRICS["per"].score(references, hypotheses, speakers=speakers)}
