"""The labels and turns of a corpus's splits, counted as rows pass through, and compared."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from mt4ssl_bench.corpora.check_report import Collector, LabelFacts, SplitFacts, TurnFacts
from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import SID_PREFIX
from mt4ssl_bench.data.cut import FOLD, SLOTS

EVALUATION = ("valid", "test")


class Classes:
    """Counts of labels, and of turns by tier, for each split."""

    def __init__(self) -> None:
        self._labels: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._turns: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, split: str, row: Row) -> None:
        """Take one utterance of `split`."""
        for name, label in row.labels.items():
            self._labels[split, name].update(label.split() if name == SLOTS else [label])
        for tier, turns in row.turns.items():
            self._turns[split, tier].update(turn.label for turn in turns)
            self._seconds[split, tier] += sum(turn.end - turn.start for turn in turns)

    def compare(self, found: Collector) -> None:
        """Report the labels that only training, or only an evaluation split has."""
        splits = {split for split, _ in self._labels if not split.startswith(SID_PREFIX)}
        for split, name in [key for key in self._labels if key[1] != FOLD]:  # no class
            known = self._labels.get(("train", name), Counter())
            labels = self._labels[split, name]
            if split in EVALUATION and known:
                for label in sorted(labels.keys() - known.keys()):
                    found.add("new_label", split, f"{name}={label}", count=labels[label])
            elif split == "train" and splits & set(EVALUATION):
                tested = {label for other in EVALUATION for label in self._labels[other, name]}
                for label in sorted(labels.keys() - tested):
                    found.add("train_label", split, f"{name}={label}", count=labels[label])

    def facts(self, split: str) -> tuple[dict[str, LabelFacts], dict[str, TurnFacts]]:
        """Return a split's facts about labels by name, and about turns by tier."""
        labels = {
            name: _balance(counts)
            for (of, name), counts in self._labels.items()
            if of == split and counts  # a split without speech has no slot
        }
        turns: dict[str, TurnFacts] = {
            tier: {
                "turns": counts.total(),
                "labels": len(counts),
                "hours": round(self._seconds[split, tier] / 3600, 4),
            }
            for (of, tier), counts in self._turns.items()
            if of == split
        }
        return labels, turns


def _balance(counts: Counter[str]) -> LabelFacts:
    total = counts.total()
    (largest, most), *_, (smallest, least) = [*counts.most_common(), *counts.most_common()]
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    return {
        "classes": len(counts),
        "largest": (largest, round(most / total, 4)),
        "smallest": (smallest, round(least / total, 4)),
        "balance": round(entropy / math.log(len(counts)), 4) if len(counts) > 1 else 1.0,
    }


def shown(facts: SplitFacts) -> Iterator[str]:
    """Yield a split's facts about labels and turns for a person, one line each."""
    for name, label in facts.get("labels", {}).items():
        (largest, most), (smallest, least) = label["largest"], label["smallest"]
        yield (
            f"{name}: {label['classes']:,} classes, from '{largest}' ({100 * most:.1f} %) to "
            f"'{smallest}' ({100 * least:.1f} %), balance {label['balance']:.2f}"
        )
    for tier, turns in facts.get("turns", {}).items():
        yield (
            f"turns of {tier}: {turns['turns']:,} with {turns['labels']:,} labels, "
            f"{turns['hours']:.2f} h"
        )
