"""Units that CTC predicts: characters, phonemes or sentencepiece, from the training split only."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import sentencepiece

from mt4ssl_bench.errors import CheckpointError, CorpusError, first_line
from mt4ssl_bench.settings import Json

BLANK = 0  # CTC's blank; units start at 1


class Units(Protocol):
    """Text to ids and back; `len(units)` counts the blank."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; unknown symbols are dropped."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`."""
        ...

    def state(self) -> dict[str, Json]:
        """Return plain containers from which restore() builds the same units."""
        ...


class Symbols:
    """Every symbol of the training text."""

    kind = ""  # in files
    between = ""  # symbols of a text

    def __init__(self, texts: Sequence[str]) -> None:
        self.symbols = sorted({symbol for text in texts for symbol in self._split(text)})
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    def _split(self, text: str) -> Sequence[str]:
        return text.split() if self.between else text

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [self._ids[symbol] for symbol in self._split(text) if symbol in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without doubled spaces: a rate must not count them."""
        return " ".join(self.between.join(self.symbols[i - 1] for i in ids).split())

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": self.kind, "symbols": self.symbols}


class Characters(Symbols):
    """Characters; on LibriSpeech they are SUPERB's A-Z, apostrophe and word boundary."""

    kind = "characters"


class Phonemes(Symbols):
    """Phonemes; a text is phonemes separated by spaces."""

    kind, between = "phonemes", " "


class Pieces:
    """Sentencepiece units, from a trained model's bytes."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Sequence[str], size: int) -> "Pieces":
        """Return `size` units of the texts; raises CorpusError if the texts do not give as many."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=size,
                character_coverage=1.0,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = re.sub(r"^.*\] *", "", first_line(error)) or "no text, or no unit asked for"
            raise CorpusError(
                f"vocabulary={size}: does not fit the training text ({reason})"
            ) from None
        return cls(model.getvalue())

    def __len__(self) -> int:
        return int(self._processor.vocab_size()) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [i + 1 for i in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """See Units.decode."""
        return str(self._processor.decode([i - 1 for i in ids]))

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode()}


def restore(state: Mapping[str, Json]) -> Units:
    """Return the units of a state(); raises CheckpointError for another kind."""
    for symbols in (Characters, Phonemes):
        if state.get("kind") == symbols.kind:
            return symbols(cast("list[str]", state["symbols"]))
    if state.get("kind") == "sentencepiece":
        return Pieces(base64.b64decode(str(state["model"])))
    raise CheckpointError(
        f"stored units: kind '{state.get('kind')}', expected characters, phonemes or sentencepiece"
    )


def drop_stress(phones: str) -> str:
    """Return ARPAbet phones without the digits of their vowels: "AH0" -> "AH"."""
    return re.sub(r"(?<=[A-Z])\d\b", "", phones)
