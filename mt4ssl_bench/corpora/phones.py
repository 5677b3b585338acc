"""Phones of rows from their texts and a lexicon, and how much of the texts it covers."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.lexicon import pronounce
from mt4ssl_bench.data.lexicon_files import Lexicon
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
LISTED = 1000  # missing words that corpus.json names


@dataclass
class Coverage:
    """What a lexicon gave for some texts, in running words."""

    spoken: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def notes(self) -> dict[str, Json]:
        """Return what corpus.json says of it."""
        lost = self.missing.total()
        counts: Json = {
            "words": self.spoken,
            "found": self.spoken - lost,
            "guessed": 0,
            "missing": lost,
        }
        notes: dict[str, Json] = {"lexicon": counts}
        if self.missing:
            notes["out_of_vocabulary"] = dict(self.missing.most_common(LISTED))
        return notes

    def report(self, name: str) -> None:
        """Log it in one line."""
        lost = self.missing.total()
        LOGGER.info(
            "phones from %s: %d words found, 0 guessed, %d missing", name, self.spoken - lost, lost
        )
        if lost:
            first = ", ".join(word for word, _ in self.missing.most_common(10))
            LOGGER.warning("%d words outside the lexicon became SPN: %s", len(self.missing), first)


def add_phones(rows: Iterable[Row], lexicon: Lexicon, coverage: Coverage) -> Iterator[Row]:
    """Yield rows with the phones of their texts, counting in `coverage`."""
    for row in rows:
        coverage.spoken += len(row.text.split())
        yield replace(row, phones=pronounce(row.text, lexicon.words, coverage.missing))
