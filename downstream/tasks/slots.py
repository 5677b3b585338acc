"""Slot filling: the words and slots of an utterance as one sequence, by CTC.

The text of an utterance is s3prl's: "SET B-timer FIVE MINUTES E-timer PLEASE". A mark stands beside
the first or last word of neighbouring words with one slot.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from torch import nn

from mt4ssl_bench.data.cut import SLOTS, Cut, label_of, text_of
from mt4ssl_bench.downstream.config import CTCConfig, DecodeConfig, RecurrentHeadConfig
from mt4ssl_bench.downstream.heads.beam_search import BeamDecoder
from mt4ssl_bench.downstream.heads.ctc import CTCTask
from mt4ssl_bench.downstream.heads.recurrent import RecurrentHead
from mt4ssl_bench.downstream.heads.units import Units
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.metrics import Metric
from mt4ssl_bench.settings import FROZEN, Json

NO_SLOT = "O"
LETTERS = " ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
END, UNKNOWN = "<eos>", "<unk>"
PUNCTUATION = "?!.,;-"  # words that consist of these are not spoken
MARKS = ("B-", "E-")
SYMBOL = re.compile(rf"B-\S+ | E-\S+|{UNKNOWN}|.")


def marked(text: str, slots: str) -> str:
    """Return the words of `text` in upper case with marks of their slots, one for each word.

    As s3prl's CharacterTextSlotEncoder (downstream/ctc/text.py): a space follows every word but
    the last one, so that a text whose last word is punctuation ends in a space. Marks beside
    punctuation are skipped with it.
    """
    words, names = text.upper().split(), slots.split()
    parts = []
    for i, (word, name, before, after) in enumerate(
        zip(words, names, ["", *names[:-1]], [*names[1:], ""], strict=True)
    ):
        if word in PUNCTUATION:
            continue
        if name not in {NO_SLOT, before}:
            parts.append(f"B-{name} ")
        parts += "AND" if word == "&" else [c if c in LETTERS else UNKNOWN for c in word]
        if name not in {NO_SLOT, after}:
            parts.append(f" E-{name}")
        if i < len(words) - 1:
            parts.append(" ")
    return "".join(parts)


class SlotUnits:
    """Units (heads.units.Units) of marked() texts: end, unknown, 28 letters, two for each slot."""

    def __init__(self, slots: Sequence[str]) -> None:
        self.slots = list(slots)
        marks = [mark for slot in slots for mark in (f"B-{slot} ", f" E-{slot}")]
        self.symbols = [END, UNKNOWN, *LETTERS, *marks]
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}

    def __len__(self) -> int:
        return len(self.symbols) + 1

    def __contains__(self, symbol: str) -> bool:
        """Return whether a symbol is known: every letter is, and every slot of the training."""
        return symbol[:2] not in MARKS or symbol[2:] in self.slots

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with an end unless a space is last; other slots are dropped."""
        symbols = [*SYMBOL.findall(text), *([END] if text and text[-1] != " " else [])]
        return [self._ids[symbol] for symbol in symbols if symbol in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without ends."""
        return "".join(self.symbols[i - 1] for i in ids if self.symbols[i - 1] != END)

    def state(self) -> dict[str, Json]:
        """See Units.state."""
        return {"kind": "slots", "slots": self.slots}


@dataclass(frozen=True, kw_only=True)
class SlotsConfig(CTCConfig):
    """The keys of slot filling."""

    head: RecurrentHeadConfig = field(default_factory=RecurrentHeadConfig, metadata=FROZEN)


class Slots(CTCTask):
    """SUPERB's SF: words and the slots that they fill."""

    name: ClassVar[str] = "slots"
    superb: ClassVar[str] = "SF"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("slot_type_f1", "slot_value_cer")
    reads: ClassVar[tuple[str, ...]] = ("text", SLOTS)
    Config: ClassVar[type[SlotsConfig]] = SlotsConfig
    config: SlotsConfig

    @property
    def fitted(self) -> SlotUnits:
        """See CTCTask.fitted."""
        assert isinstance(self.units, SlotUnits), "fit_units() comes first"
        return self.units

    def check(self) -> None:
        """See Task.check."""
        if self.config.decode.lm:
            self.beam(self.config.decode)

    def beam(self, config: DecodeConfig) -> BeamDecoder:  # noqa: ARG002
        """Raise ConfigError: SUPERB's SF has no language model, and words do not spell marks."""
        raise ConfigError(f"decode.lm: task '{self.name}' decodes without; expected none")

    def unlearnable(self, cuts: Iterable[Cut]) -> str:
        """See Task.unlearnable."""
        filled = any(set(label_of(cut, SLOTS).split()) - {NO_SLOT} for cut in cuts)
        return "" if filled else f"needs slots, and has only {NO_SLOT} in the utterances"

    def build_units(self, texts: Sequence[str]) -> Units:
        """Return letters and marks; the most frequent slot comes first."""
        marks = Counter(mark[2:] for text in texts for mark in _symbols(text) if mark[:2] in MARKS)
        return SlotUnits(sorted(marks, key=lambda slot: (-marks[slot], slot)))

    def restore(self, state: Mapping[str, Json]) -> None:
        """See Task.restore."""
        self.units = SlotUnits(cast("list[str]", state["slots"]))

    def head(self, num_layers: int, dim: int) -> nn.Module:
        """Return a RecurrentHead."""
        return RecurrentHead(num_layers, dim, self.outputs, self.config.head)

    def reference(self, cut: Cut) -> str:
        """Return the transcript with marks of its slots."""
        return marked(text_of(cut), label_of(cut, SLOTS))

    def units_in(self, cut: Cut) -> list[str]:
        """Return the letters and marks of the reference."""
        return _symbols(self.reference(cut))


def _symbols(text: str) -> list[str]:
    """Return letters and marks, which have no spaces around them here."""
    return [symbol.strip() or symbol for symbol in SYMBOL.findall(text)]


TASK = Slots
