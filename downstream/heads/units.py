"""Units that CTC predicts: characters, phonemes or sentencepiece, from the training split only."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from mt4ssl_bench.downstream.heads.pieces import Pieces
from mt4ssl_bench.errors import CheckpointError
from mt4ssl_bench.settings import Json

BLANK = 0  # CTC's blank; units start at 1


class Units(Protocol):
    """Text to ids and back; `len(units)` counts the blank, `in` tells known symbols."""

    def __len__(self) -> int: ...
    def __contains__(self, symbol: str) -> bool: ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; unknown symbols are dropped."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`."""

    def state(self) -> dict[str, Json]:
        """Return plain containers from which restore() builds the same units."""


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

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._ids

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


def restore(state: Mapping[str, Json]) -> Units:
    """Return the units of a state(); raises CheckpointError for another kind."""
    for symbols in (Characters, Phonemes):
        if state.get("kind") == symbols.kind:
            return symbols(cast("list[str]", state["symbols"]))
    if state.get("kind") == "sentencepiece":
        return Pieces.restore(state["model"])
    raise CheckpointError(
        f"stored units: kind '{state.get('kind')}', expected characters, phonemes or sentencepiece"
    )


def drop_stress(phones: str) -> str:
    """Return ARPAbet phones without the digits of their vowels: "AH0" -> "AH"."""
    return re.sub(r"(?<=[A-Z])\d\b", "", phones)
