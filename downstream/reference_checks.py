"""Data checks before training: empty references, unseen units, targets longer than their frames."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mt4ssl_bench.data.cut import Cut, is_silent
from mt4ssl_bench.downstream.job import Fold, Job, named
from mt4ssl_bench.downstream.task import Task
from mt4ssl_bench.errors import CorpusError

LOGGER = logging.getLogger(__name__)
LISTED = 20  # unknown units in a warning


def check_references(
    job: Job, task: Task, cuts: Mapping[str, Sequence[Cut]], fold: str = ""
) -> dict[str, int]:
    """Count silent utterances and units not seen in training, for the record; warn of both.

    What is recognized in a silent utterance of valid or test counts as errors. `fold` is the name
    of the fold, for messages.

    Raises:
        CorpusError: If a reference is empty although somebody speaks, if a split has no reference
            that is not empty, or if a split has no unit that is seen in training.
    """
    counts = {}
    for role, spoken in cuts.items():
        where = _where(job, task)
        split = f"{role} of fold {fold}" if fold else job.split(role)
        empty = [cut for cut in spoken if not task.reference(cut).strip()]
        if len(empty) == len(spoken):
            raise CorpusError(
                f"{where}: no utterance of split '{split}' has a reference: all {len(spoken)} are "
                f"empty ({named([cut.id for cut in empty])}); expected one in at least one"
            )
        if unmarked := [cut.id for cut in empty if not is_silent(cut)]:
            raise CorpusError(
                f"{where}: the reference of {named(unmarked)} in split '{split}' is empty "
                f"({len(unmarked)} of {len(spoken)} utterances), and not marked as silence; give "
                f"it {' and '.join(task.fields(job.config))}, or leave it out"
            )
        if empty:
            counts[f"{role}_silent_utterances"] = len(empty)
            effect = "what is recognized in them counts as errors"
            if role == "train":
                effect = "trained on" if task.learns_silence else "left out of training"
            LOGGER.warning(
                "%s: nobody speaks in %d of %d utterances of split '%s': %s (%s)",
                *(job.recipe, len(empty), len(spoken), split),
                effect,
                named([cut.id for cut in empty]),
            )
        if role != "train":
            _warn_of_writing(job, task, spoken, split)
        if role != "train" and (unknown := _unknown_units(job, task, spoken, split)):
            counts[f"{role}_unknown_units"] = unknown
    return counts


def _unknown_units(job: Job, task: Task, cuts: Sequence[Cut], split: str) -> int:
    """Return the number of units of a split that are not seen in training, with repetitions."""
    units = Counter(unit for cut in cuts for unit in task.units_in(cut))
    unknown = Counter({unit: count for unit, count in units.items() if not task.knows(unit)})
    if unknown == units:
        raise CorpusError(
            f"{_where(job, task)}: nothing of split '{split}' is in the training split "
            f"({named(list(units))} in {len(cuts)} utterances); both must share what is to be "
            "recognized"
        )
    if unknown:
        listed = named([f"{unit!r} {count}" for unit, count in unknown.most_common()], LISTED)
        LOGGER.warning(
            "%s: %d units of split '%s' are not seen in training and count as errors (%d times): "
            "%s",
            *(job.recipe, len(unknown), split, unknown.total(), listed),
        )
    return unknown.total()


def _warn_of_writing(job: Job, task: Task, cuts: Sequence[Cut], split: str) -> None:
    """Warn of references that no hypothesis can equal although all their units are known."""
    others = [
        (reference, written)
        for cut in cuts
        if (reference := task.reference(cut)) != (written := task.written(cut))
        and all(map(task.knows, task.units_in(cut)))
    ]
    if others:
        LOGGER.warning(
            "%s: the units write %d of %d references of split '%s' differently, without any error "
            "of the model: %r becomes %r",
            *(job.recipe, len(others), len(cuts), split, *others[0]),
        )


def check_fold(job: Job, fold: Fold) -> dict[str, int]:
    """Count the classes of training that a fold's test lacks, for the record; warn of them.

    Raises:
        CorpusError: If a fold leaves nothing to train, to validate or to choose between.
    """
    units = {
        role: {unit for cut in cuts for unit in fold.task.units_in(cut)}
        for role, cuts in fold.cuts.items()
    }
    if len(units["train"]) < 2 or not units["valid"]:
        raise CorpusError(
            f"corpus {job.corpus.root}: task '{fold.task.name}': fold {fold.name} leaves "
            f"{len(fold.cuts['train'])} utterances with {len(units['train'])} classes "
            f"({named(sorted(units['train']))}) for training and {len(fold.cuts['valid'])} for "
            "validation; expected two classes or more, and one utterance"
        )
    lacking = sorted(units["train"] - units["test"])
    if lacking:
        LOGGER.warning(
            "%s: test of fold %s lacks %d of %d classes, which its accuracy does not measure: %s",
            *(job.recipe, fold.name, len(lacking), len(units["train"]), named(lacking)),
        )
    return {"fold_lacks_classes": len(lacking)} if lacking else {}


def learnable(
    job: Job, fold: Fold, count: Callable[[Cut], int]
) -> tuple[list[Cut], dict[str, int]]:
    """Return the training cuts that can be learnt from, and how many are left out, by reason.

    Too short are those that the task says (Task.usable); too long those whose targets do not fit
    into their frames, which `count` gives: CTC has no gradient for an impossible alignment. Silent
    utterances are left out, too, unless the task learns them: CTC's loss is divided by the target's
    length. All are still scored in test.

    Raises:
        CorpusError: If none is left.
    """
    task, where, spoken = fold.task, _where(job, fold.task), fold.cuts["train"]
    if not task.learns_silence:
        spoken = [cut for cut in spoken if task.reference(cut).strip()]
    cuts = task.usable(spoken)
    short = sorted({cut.id for cut in spoken} - {cut.id for cut in cuts})
    long = sorted(cut.id for cut in cuts if count(cut) < task.frames_needed(cut))
    if not cuts:
        raise CorpusError(f"{where}: all {len(short)} training utterances are too short")
    if len(long) == len(cuts):
        raise CorpusError(
            f"{where}: every target of split '{job.split('train')}' is longer than the upstream's "
            f"frames ({len(cuts)} utterances: {named(long)}); do texts and audio belong together?"
        )
    about = "%s: leaving out %d of %d training utterances %s: %s"
    for names, why in ((short, "too short"), (long, "with targets longer than their frames")):
        if names:
            LOGGER.warning(about, job.recipe, len(names), len(spoken), why, named(names))
    counts = {"train_too_short": len(short), "train_too_long": len(long)}
    out = {*short, *long}
    return [cut for cut in cuts if cut.id not in out], {k: n for k, n in counts.items() if n}


def _where(job: Job, task: Task) -> str:
    return f"corpus {job.corpus.root}: task '{task.name}'"
