"""Trials of speaker verification: read from a list of the corpus, or made of a split."""

import itertools
import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from mt4ssl_bench.data.lists import Rows, check_columns
from mt4ssl_bench.downstream.job import named
from mt4ssl_bench.errors import CorpusError

COLUMNS = ("label", "enrol_id", "test_id")
LOGGER = logging.getLogger(__name__)
LABELS = {"1": True, "0": False, "target": True, "nontarget": False}


class Trial(NamedTuple):
    """Two utterances, and whether one speaker spoke both."""

    target: bool
    enrol: str
    test: str


def read_trials(rows: Rows, where: str) -> list[Trial]:
    """Return the trials of a list with the columns label (1 or 0), enrol_id and test_id.

    Raises:
        CorpusError: If a column is missing, or a label is another one.
    """
    check_columns(rows, COLUMNS, where)
    trials = []
    for number, row in enumerate(rows, start=1):
        label, enrol, test = (row[column] for column in COLUMNS)
        if label not in LABELS:
            raise CorpusError(
                f"{where}, row {number}: label '{label}'; expected 1 or target for one speaker, "
                "0 or nontarget for two"
            )
        trials.append(Trial(target=LABELS[label], enrol=enrol, test=test))
    return trials


def usable_trials(
    trials: Sequence[Trial], speakers: Mapping[str, str], where: str, heard: Collection[str]
) -> list[Trial]:
    """Return the trials whose utterances are there; warn of others, and of speakers of training.

    Args:
        trials: Of a list.
        speakers: Of each utterance of the split.
        where: For messages.
        heard: Speakers of training.

    Raises:
        CorpusError: If trials contradict the speakers, or are all of one kind.
    """
    usable = [each for each in trials if each.enrol in speakers and each.test in speakers]
    if lost := len(trials) - len(usable):
        names = sorted({n for each in trials for n in each[1:] if n not in speakers})
        LOGGER.warning(
            "%s: %d of %d trials left out, their utterances are not in the split: %s",
            *(where, lost, len(trials), named(names)),
        )
    for target, enrol, test in usable:
        if target != (speakers[enrol] == speakers[test]) or enrol == test:
            raise CorpusError(
                f"{where}: '{enrol}' and '{test}' are a {'target' if target else 'nontarget'} "
                f"trial, and their speakers are '{speakers[enrol]}' and '{speakers[test]}'; "
                "expected two utterances, of one speaker in a target trial only"
            )
    targets = sum(each.target for each in usable)
    if not 0 < targets < len(usable):
        raise CorpusError(
            f"{where}: {targets} target trials and {len(usable) - targets} others; expected both "
            "kinds, without which there is no error rate"
        )
    if known := sorted({speakers[n] for each in usable for n in each[1:]} & set(heard)):
        LOGGER.warning(
            "%s: %d speakers are in training, too, which makes their trials easier: %s",
            *(where, len(known), named(known)),
        )
    return usable


def make_trials(speakers: Mapping[str, str], count: int) -> list[Trial]:
    """Return at most `count` trials, half of them targets, in a fixed pseudo-random choice.

    No pair occurs twice, and all utterances (of targets: all speakers) occur about equally often.

    Args:
        speakers: Of each utterance.
        count: Most trials.
    """
    names = sorted(speakers)
    random.Random(0).shuffle(names)  # noqa: S311
    own: dict[str, list[str]] = {}
    for name in names:
        own.setdefault(speakers[name], []).append(name)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*map(_pairs, own.values())))
    same = itertools.islice(filter(None, turns), count // 2)
    targets = [Trial(target=True, enrol=a, test=b) for a, b in same]
    others = (pair for pair in _pairs(names) if speakers[pair[0]] != speakers[pair[1]])
    few = itertools.islice(others, len(targets))
    return targets + [Trial(target=False, enrol=a, test=b) for a, b in few]


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every pair once: each name with the next one in the circle, then the one after, ..."""
    count = len(names)
    for step in range(1, count // 2 + 1):
        for place in range(count if 2 * step < count else step):
            yield names[place], names[(place + step) % count]
