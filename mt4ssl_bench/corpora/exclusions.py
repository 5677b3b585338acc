"""Utterances that a corpus leaves out: counted by reason, and each reason logged once."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mt4ssl_bench.corpora.rows import Row

LOGGER = logging.getLogger(__name__)
EXAMPLES = 20  # of each reason in corpus.json
ATTRIBUTES = ("text", "phones", "speaker")  # what tasks read: a gap in one costs the whole column
REASONS: Mapping[str, str] = {
    "no_duration": "utterances whose duration is not a positive number of seconds",
    "outside": "utterances that start or end outside their cut or recording",
    "no_channel": "utterances of channels that their recording lacks",
    "no_recording": "utterances whose recording is not listed",
    **{f"no_{name}": f"utterances without {name}" for name in ATTRIBUTES},
    **{
        f"no_{name}": f"rows without {name}"
        for name in ("language", "split", "sid_split", "duration_s")
    },
}


@dataclass
class Exclusions:
    """Counts of excluded utterances by reason, a key of REASONS, with a few examples of each.

    Attributes:
        source: The manifest or folder, for messages.
    """

    source: Path
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def usable(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that can be used; count the others and log each reason once."""
        rows = list(rows)
        before = Counter(self.counts)
        for row in rows:
            if row.unusable:
                self._add(*row.unusable, row.id)
        self._log(before, len(rows))
        return [row for row in rows if row.unusable is None]

    def without_gaps(self, rows: list[Row], *, partial: bool) -> list[Row]:
        """Return the rows, without those that lack what others of their split have if `partial`.

        A split in which no utterance has a text contains no silent utterances: its texts are
        missing, and an empty one says nothing.
        """
        spoken = {row.split for row in rows if row.text or row.phones}
        rows = [
            replace(row, silent=False) if row.silent and row.split not in spoken else row
            for row in rows
        ]
        for name in ATTRIBUTES:
            having = {row.split for row in rows if getattr(row, name)}
            if having and (bare := sorted({row.split for row in rows} - having)):
                LOGGER.warning(
                    "%s: no utterance of split %s has %s, so that it is not among the corpus's "
                    "fields",
                    self.source,
                    ", ".join(bare),
                    name,
                )
            lacking = [row for row in rows if row.split in having and _lacks(row, name)]
            if not lacking:
                continue
            if partial:
                before = Counter(self.counts)
                for row in lacking:
                    self._add(f"no_{name}", f"split '{row.split}'", row.id)
                self._log(before, len(rows))
                gaps = {id(row) for row in lacking}
                rows = [row for row in rows if id(row) not in gaps]
            else:
                LOGGER.warning(
                    "%s: %d of %d utterances have no %s, the first is '%s', so that %s is not "
                    "among the corpus's fields; fill it in, or leave these utterances out with "
                    "--partial",
                    self.source,
                    len(lacking),
                    len(rows),
                    name,
                    lacking[0].id,
                    name,
                )
        return rows

    def notes(self) -> dict[str, Any]:
        """Return the counts and examples as corpus.json has them."""
        return dict(self.counts) | {
            f"{reason}_examples": lines for reason, lines in self.examples.items()
        }

    def first(self) -> str:
        """Return the first example, for a message when nothing is left."""
        reason = next(iter(self.counts))
        return f"{REASONS[reason]}, the first is {self.examples[reason][0]}"

    def _add(self, reason: str, details: str, name: str) -> None:
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"'{name}' ({details})")

    def _log(self, before: Counter[str], total: int) -> None:
        for reason, count in (self.counts - before).items():
            LOGGER.warning(
                "%s: left out %d of %d %s; the first is %s",
                self.source,
                count,
                total,
                REASONS[reason],
                self.examples[reason][0],
            )


def has_all(rows: Iterable[Row], name: str) -> bool:
    """Return whether no row lacks an attribute, and some have it."""
    rows = list(rows)
    return any(getattr(row, name) for row in rows) and not any(_lacks(row, name) for row in rows)


def _lacks(row: Row, name: str) -> bool:
    return not getattr(row, name) and not (row.silent and name != "speaker")
