"""What a task cannot learn from or be fairly scored on, found and named before any head is
trained.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mt4ssl_bench.data.cut import is_silent
from mt4ssl_bench.downstream.plan import Job, named
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
LISTED = 20  # unknown units in a warning


def check_references(job: Job, task: Task, cuts: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return counts for the record of silent utterances and of units not seen in training.

    Warn of both.

    In valid and test, words that are recognized in a silent utterance count as insertions.

    Raises:
        CorpusError: If a reference is empty although somebody speaks, if a split has no reference
            that is not empty, or if a split has no unit that is seen in training.
    """
    counts = {}
    for role, members in cuts.items():
        split = job.split(role)
        where = f"corpus {job.corpus.root}: task '{task.name}'"
        empty = [cut for cut in members if not task.reference(cut).strip()]
        if len(empty) == len(members):
            raise CorpusError(
                f"{where}: no utterance of split '{split}' has a reference: all {len(members)} are "
                f"empty ({named([cut.id for cut in empty])}); expected {task.needs} in at least one"
            )
        unmarked = [cut.id for cut in empty if not is_silent(cut)]
        if unmarked:
            raise CorpusError(
                f"{where}: the reference of {named(unmarked)} in split '{split}' is empty "
                f"({len(unmarked)} of {len(members)} utterances), and not marked as silence; "
                f"give it a {task.needs} or leave it out"
            )
        if empty:
            counts[f"{role}_silent_utterances"] = len(empty)
            LOGGER.warning(
                "%s: in %d of %d utterances of split '%s' nobody speaks: %s (%s)",
                job.recipe,
                len(empty),
                len(members),
                split,
                "left out of training" if role == "train" else "words in them count as insertions",
                named([cut.id for cut in empty]),
            )
        if role == "train":
            continue
        if unknown := _check_units(job, task, split, members):
            counts[f"{role}_unknown_units"] = unknown
    return counts


def _check_units(job: Job, task: Task, split: str, members: Sequence[Any]) -> int:
    """Return how many units of a split are not seen in training, each occurrence counted."""
    units = Counter(unit for cut in members for unit in task.units_in(cut))
    unknown = Counter({unit: count for unit, count in units.items() if not task.knows(unit)})
    if unknown == units:
        raise CorpusError(
            f"corpus {job.corpus.root}: task '{task.name}': training shows nothing of split "
            f"'{split}' ({named(list(units))} in {len(members)} utterances); both must share "
            "what is to be recognised"
        )
    if unknown:
        listed = ", ".join(f"{unit!r} {count}" for unit, count in unknown.most_common(LISTED))
        LOGGER.warning(
            "%s: split '%s' holds %d units %d times that training never shows, so they count "
            "as errors: %s%s",
            job.recipe,
            split,
            len(unknown),
            unknown.total(),
            listed,
            ", ..." if len(unknown) > LISTED else "",
        )
    return unknown.total()


def learnable(
    job: Job, task: Task, cuts: Sequence[Any], frames: Mapping[str, int]
) -> tuple[list[Any], int]:
    """Return the training cuts whose targets fit into their frames, and how many do not.

    Warns of those.

    `frames` is by utterance id. CTC gives an impossible alignment no gradient; such utterances
    would only dilute the others. Silent utterances are left out, too: CTC's loss is divided by the
    target's length. Both are still scored in test. Raises CorpusError when none is left.
    """
    cuts = [cut for cut in cuts if task.reference(cut).strip()]
    short = {cut.id for cut in cuts if frames[cut.id] < task.frames_needed(cut)}
    if len(short) == len(cuts):
        raise CorpusError(
            f"corpus {job.corpus.root}: task '{task.name}': every target of split "
            f"'{job.split('train')}' is longer than the upstream's frames ({len(cuts)} utterances: "
            f"{named(sorted(short))}); do texts and audio belong together?"
        )
    if short:
        LOGGER.warning(
            "%s: %d of %d training utterances have targets longer than their frames and are left "
            "out: %s",
            job.recipe,
            len(short),
            len(cuts),
            named(sorted(short)),
        )
    return [cut for cut in cuts if cut.id not in short], len(short)
