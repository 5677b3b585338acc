"""Units that CTC predicts: characters, phonemes or sentencepiece, always taken from the training split alone."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from mt4ssl_bench.errors import CorpusError

BLANK = 0  # CTC's blank; units start at 1


class Units(Protocol):
    """Text to ids and back; `len(units)` counts the blank."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without those it does not know."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`."""
        ...


class Characters:
    """Every character of the training text; on LibriSpeech that is SUPERB's A-Z, apostrophe and word boundary."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.symbols = sorted({character for text in texts for character in text})
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [self._ids[character] for character in text if character in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, its spaces tidied: a rate must not count a doubled boundary."""
        return " ".join("".join(self.symbols[i - 1] for i in ids).split())


class Phonemes:
    """Every phoneme of the training split; a text is phonemes separated by spaces."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.symbols = sorted({phoneme for text in texts for phoneme in text.split()})
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [self._ids[phoneme] for phoneme in text.split() if phoneme in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """See Units.decode."""
        return " ".join(self.symbols[i - 1] for i in ids)


class Pieces:
    """Sentencepiece units trained on the training text; raises CorpusError when the text is too small for them."""

    def __init__(self, texts: Sequence[str], size: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder) / "units"
            try:
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(texts),
                    model_prefix=str(prefix),
                    vocab_size=size,
                    character_coverage=1.0,
                    minloglevel=2,
                )
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise CorpusError(
                    f"vocabulary={size}: the training text does not give so many units ({reason})"
                ) from None
            self._model = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")

    def __len__(self) -> int:
        return int(self._model.vocab_size()) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [i + 1 for i in self._model.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """See Units.decode."""
        return str(self._model.decode([i - 1 for i in ids]))


def drop_stress(phones: str) -> str:
    """Return ARPAbet phones without the digits of their vowels: "AH0" -> "AH"."""
    return re.sub(r"(?<=[A-Z])\d\b", "", phones)
