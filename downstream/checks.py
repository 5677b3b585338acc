"""What a task cannot learn from or be fairly scored on, found and named before any head is trained."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mt4ssl_bench.downstream.plan import Job, named
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
LISTED = 20  # unknown units in a warning


def check_references(job: Job, task: Task, cuts: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return counts for the record of units in valid and test that training never shows, and warn of them.

    Raises CorpusError for an empty reference, and where a split holds nothing that training shows.
    """
    counts = {}
    for role, members in cuts.items():
        split = job.split(role)
        empty = [cut.id for cut in members if not task.reference(cut).strip()]
        if empty:
            raise CorpusError(
                f"corpus {job.corpus.root}: task '{task.name}': the reference of {named(empty)} in split '{split}' is "
                f"empty ({len(empty)} of {len(members)} utterances); give it a {task.needs} or leave it out"
            )
        if role == "train":
            continue
        units = Counter(unit for cut in members for unit in task.units_in(cut))
        unknown = Counter({unit: count for unit, count in units.items() if not task.knows(unit)})
        if unknown == units:
            raise CorpusError(
                f"corpus {job.corpus.root}: task '{task.name}': training shows nothing of split '{split}' "
                f"({named(list(units))} in {len(members)} utterances); both must share what is to be recognised"
            )
        if unknown:
            counts[f"{role}_unknown_units"] = unknown.total()
            listed = ", ".join(f"{unit!r} {count}" for unit, count in unknown.most_common(LISTED))
            LOGGER.warning(
                "%s: split '%s' holds %d units %d times that training never shows, so they count as errors: %s%s",
                job.recipe, split, len(unknown), unknown.total(), listed, ", ..." if len(unknown) > LISTED else "",
            )  # fmt: skip
    return counts


def learnable(
    job: Job, task: Task, cuts: Sequence[Any], frames: Mapping[str, int]
) -> tuple[list[Any], int]:
    """Return the training cuts whose targets fit into their frames, and how many do not; warns of those.

    `frames` is by utterance id. CTC gives an impossible alignment no gradient; such utterances would only dilute
    the others. They are still scored in test. Raises CorpusError when none is left.
    """
    short = {cut.id for cut in cuts if frames[cut.id] < task.frames_needed(cut)}
    if len(short) == len(cuts):
        raise CorpusError(
            f"corpus {job.corpus.root}: task '{task.name}': every target of split '{job.split('train')}' is longer "
            f"than the upstream's frames ({len(cuts)} utterances: {named(sorted(short))}); "
            "do texts and audio belong together?"
        )
    if short:
        LOGGER.warning(
            "%s: %d of %d training utterances have targets longer than their frames and are left out: %s",
            job.recipe, len(short), len(cuts), named(sorted(short)),
        )  # fmt: skip
    return [cut for cut in cuts if cut.id not in short], len(short)
