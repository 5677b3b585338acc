"""Utterances that a corpus cannot take: left out and counted by reason, or refused."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mt4ssl_bench.corpora.rows import SILENCE, Row, field_names
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json

LOGGER = logging.getLogger(__name__)
EXAMPLES = 20  # of each reason in corpus.json
REASONS: Mapping[str, str] = {  # a gap, no_<field>, explains itself
    "no_duration": "utterances whose duration is not a positive number of seconds",
    "outside": "utterances that start or end outside their cut or recording",
    "no_channel": "utterances of channels that their recording lacks",
    "no_recording": "utterances whose recording is not listed",
    "missing": "missing files",
    "unreadable": "unreadable files",
    "duration": "utterances that last other than their manifest says",
    "other": "utterances with other audio of unequal length or sample rate",
    "turn_order": "utterances with a turn that ends before it starts",
    "turn_outside": "utterances with a turn that reaches beyond them",
    "slots": "utterances with more or fewer slots than words",
    "few_speakers": "mixtures of which the RTTM names fewer speakers than are in them",
    "list_rows": "rows of lists that name no utterance of the corpus",
}
# what published corpora hold on purpose; everything else is refused without --partial
EXPECTED = frozenset(["no_duration", "outside", "no_channel", "no_recording"])
FILES = frozenset(["missing", "unreadable"])  # each of them is logged


def about(reason: str) -> str:
    """Return what a reason means."""
    return REASONS.get(reason) or f"utterances without {reason.removeprefix('no_')}"


@dataclass
class Exclusions:
    """Counts of excluded utterances by reason, with a few examples of each.

    Attributes:
        source: The manifest or folder, for messages.
        partial: Leave out what would be refused otherwise.
    """

    source: Path
    partial: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def usable(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows that can be used; count the others and log each reason once.

        Raises:
            CorpusError: If a row is unusable for a reason that is not EXPECTED; see `partial`.
        """
        rows = list(rows)
        with_gap = sum(1 for row in rows if row.unusable and row.unusable[0] not in EXPECTED)
        before = Counter(self.counts)
        for row in rows:
            if row.unusable is None:
                continue
            reason, details = row.unusable
            if not self.partial and reason not in EXPECTED:
                self._refuse(row.id, reason, details, f"{with_gap:,} of {len(rows):,}")
            self.add(reason, details, row.id)
            if reason in FILES:
                LOGGER.warning("left out: utterance '%s': %s", row.id, details)
        self._log(before, len(rows))
        return [row for row in rows if row.unusable is None]

    def _refuse(self, name: str, reason: str, details: str, share: str) -> None:
        where = f"{self.source}: utterance '{name}'"
        if reason in REASONS:
            raise CorpusError(f"{where}{_complaint(reason, details)}")
        hint = (
            f"write {SILENCE} as the text of an utterance in which nobody speaks, "
            if reason in {"no_text", "no_phones"} or reason.startswith("no_turns:")
            else ""
        )
        raise CorpusError(
            f"{where} has no {reason.removeprefix('no_')} ({details}; {share} rows have a gap); "
            f"fill it in, {hint}or leave such rows out with --partial"
        )

    def without_gaps(self, rows: list[Row]) -> list[Row]:
        """Return the rows, if `partial` without those that lack what others of their split have.

        A split in which no utterance has a text contains no silent utterances: its texts are
        missing, and an empty one says nothing.
        """
        spoken = {row.split for row in rows if row.text or row.phones}
        rows = [
            replace(row, silent=False) if row.silent and row.split not in spoken else row
            for row in rows
        ]
        for name in field_names(rows):
            having = {row.split for row in rows if row.has(name)}
            if bare := sorted({row.split for row in rows} - having):
                LOGGER.warning(
                    "%s: no utterance of split %s has %s, so that it is not among the corpus's "
                    "fields",
                    self.source,
                    ", ".join(bare),
                    name,
                )
            lacking = [row for row in rows if row.split in having and row.lacks(name)]
            if not lacking:
                continue
            if self.partial:
                before = Counter(self.counts)
                for row in lacking:
                    self.add(f"no_{name}", f"split '{row.split}'", row.id)
                self._log(before, len(rows))
                gaps = {row.id for row in lacking}
                rows = [row for row in rows if row.id not in gaps]
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

    def notes(self) -> dict[str, Json]:
        """Return the counts and examples as corpus.json has them."""
        counts: dict[str, Json] = dict(self.counts)
        return counts | {f"{reason}_examples": lines for reason, lines in self.examples.items()}

    def first(self) -> str:
        """Return the first example, for a message when nothing is left."""
        reason = next(iter(self.counts))
        return f"{about(reason)}, the first is {self.examples[reason][0]}"

    def add(self, reason: str, details: str, name: str) -> None:
        """Count one utterance, or row of a list."""
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"'{name}' ({details})")

    def _log(self, before: Counter[str], total: int) -> None:
        for reason, count in (self.counts - before).items():
            if reason not in FILES:
                LOGGER.warning(
                    "%s: left out %d of %d %s; the first is %s",
                    self.source,
                    count,
                    total,
                    about(reason),
                    self.examples[reason][0],
                )


def _complaint(reason: str, details: str) -> str:
    return {
        "duration": f" {details}",
        "other": f": other audio {details}; expected the same",
        "slots": f": {details}; expected one slot for each word of its text, O for none",
        "turn_order": f": a turn ends before it starts: {details}",
        "turn_outside": f": a turn reaches beyond the utterance: {details}",
    }.get(reason, f": {details}")


def left_out(notes: Mapping[str, Json]) -> Iterator[str]:
    """Yield what the notes of a corpus say was left out, one line for each reason."""
    for reason, count in notes.items():
        if isinstance(count, int) and f"{reason}_examples" in notes:
            yield f"{count} {about(reason)}"
