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


class Characters:
    """Every character of the training text.

    On LibriSpeech that is SUPERB's A-Z, apostrophe and word boundary.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.symbols = sorted({character for text in texts for character in text})
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """See Units.encode."""
        return [self._ids[character] for character in text if character in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without doubled spaces: a rate must not count them."""
        return " ".join("".join(self.symbols[i - 1] for i in ids).split())

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": "characters", "symbols": self.symbols}


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

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": "phonemes", "symbols": self.symbols}


class Pieces:
    """Sentencepiece units, from a trained model's bytes."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Sequence[str], size: int) -> "Pieces":
        """Return `size` units of the texts.

        Raises:
            CorpusError: If the text gives fewer, or cannot be spelled with so few.
        """
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
    match state.get("kind"):
        case "characters":
            return Characters(cast("list[str]", state["symbols"]))
        case "phonemes":
            return Phonemes(cast("list[str]", state["symbols"]))
        case "sentencepiece":
            return Pieces(base64.b64decode(str(state["model"])))
    raise CheckpointError(
        f"stored units: kind '{state.get('kind')}', expected characters, phonemes or sentencepiece"
    )


def drop_stress(phones: str) -> str:
    """Return ARPAbet phones without the digits of their vowels: "AH0" -> "AH"."""
    return re.sub(r"(?<=[A-Z])\d\b", "", phones)
