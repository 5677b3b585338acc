"""Splits of rows: as the source states them, or made here in a fixed pseudo-random order."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from mt4ssl_bench.corpora.rows import Row
from mt4ssl_bench.data.corpus import SID_PREFIX

ENOUGH = 10  # speakers from which on splits are made by speaker, and not by utterance


def hold_out(rows: list[Row]) -> list[Row]:
    """Move a tenth of `train` (2 % without texts) to `valid`, by speaker if there are ENOUGH."""
    train = [row for row in rows if row.split == "train"]
    of = _group({row.speaker for row in train} - {""})
    groups = sorted({of(row) for row in train}, key=_rank)
    share = 10 if any(row.text for row in train) else 50
    count = max(1, len(groups) // share) if len(groups) > 1 else 0
    held = set(groups[:count])
    return [
        replace(row, split="valid") if row.split == "train" and of(row) in held else row
        for row in rows
    ]


def by_split(rows: list[Row]) -> dict[str, list[Row]]:
    """Return rows by split, with speaker splits where the plain ones part the speakers.

    Speaker splits are made only if train, valid and test all get utterances.
    """
    speakers = {row.speaker for row in rows} - {""}
    if not any(row.split for row in rows):
        rows = _deal(rows, "split", _group(speakers), shares=(0.1, 0.1))
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    speakers_of = {name: {row.speaker for row in split} for name, split in splits.items()}
    train = speakers_of.get("train", set())
    shared = all(speakers_of.get(name, set()) <= train for name in ("valid", "test"))
    if len(speakers) > 1 and not any(row.sid_split for row in rows) and not shared:
        by_speaker: dict[str, list[Row]] = {}
        for row in rows:
            if row.speaker:
                by_speaker.setdefault(row.speaker, []).append(row)
        dealt = [
            row
            for speaker in sorted(by_speaker)
            for row in _deal(by_speaker[speaker], "sid_split", _id, shares=(0.15, 0.15))
        ]
        # of speakers with one or two utterances each, all would be in sid_train
        rows = dealt if {row.sid_split for row in dealt} == {"train", "valid", "test"} else []
    for row in rows:
        if row.sid_split:
            splits.setdefault(SID_PREFIX + row.sid_split, []).append(row)
    return splits


def _id(row: Row) -> str:
    return row.id


def _group(speakers: set[str]) -> Callable[[Row], str]:
    return (lambda row: row.speaker) if len(speakers) >= ENOUGH else _id


def _deal(
    rows: Sequence[Row],
    column: Literal["split", "sid_split"],
    of: Callable[[Row], str],
    shares: tuple[float, float],
) -> list[Row]:
    """Deal groups of rows over train, valid and test; `shares` are those of valid and test."""
    groups = sorted({of(row) for row in rows}, key=_rank)
    enough = len(groups) > 2
    valid, test = (max(1, round(share * len(groups))) if enough else 0 for share in shares)
    split_of = {
        group: "valid" if place < valid else "test" if place < valid + test else "train"
        for place, group in enumerate(groups)
    }
    if column == "split":
        return [replace(row, split=split_of[of(row)]) for row in rows]
    return [replace(row, sid_split=split_of[of(row)]) for row in rows]


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
