"""A job: a task recipe on a corpus, with its cuts, passes and the identity of its record."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.corpus_info import SplitInfo
from mt4ssl_bench.data.cut import Cut, field_of
from mt4ssl_bench.downstream.config import BaseConfig, TaskConfig
from mt4ssl_bench.downstream.task import TASKS, BaseTask, Task
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features.forward_pass import Pass
from mt4ssl_bench.results.record import Identity

ROLES = ("train", "valid", "test")
NAMED = 3  # examples in a message


@dataclass(frozen=True)
class Fold:
    """One training: the task with its units, and the cuts by role.

    `name` is the value of the task's fold label that is tested; "" without folds.
    """

    task: Task
    cuts: Mapping[str, Sequence[Cut]]
    name: str = ""


@dataclass(frozen=True)
class Job:
    """One task recipe on one corpus, checked."""

    recipe: str
    config: BaseConfig
    corpus: Corpus
    limit: int | None

    @property
    def kind(self) -> type[BaseTask]:
        """The class of the task."""
        return TASKS.get(self.config.task)

    @property
    def training(self) -> TaskConfig:
        """The config of a task that trains."""
        assert isinstance(self.config, TaskConfig)
        return self.config

    @property
    def roles(self) -> list[str]:
        """The roles of the task; without training, "valid" only where the corpus has it."""
        known = self.corpus.info.splits
        return [
            role
            for role in self.kind.roles
            if role not in self._optional or self.splits(role)[0] in known
        ]

    @property
    def _optional(self) -> set[str]:
        return {"valid"} if "train" not in self.kind.roles else set()

    @property
    def prefix(self) -> str:
        """Prefix of all splits of the job: the task's own, or "" if the corpus has none of them.

        Raises:
            CorpusError: If the corpus has only some of the task's own splits.
        """
        own, there = self.kind.splits, self.corpus.info.splits
        roles = ROLES if self.kind.folds else self.kind.roles
        needed = [own + role for role in roles if role not in self._optional]
        missing = [split for split in needed if split not in there]
        if own and 0 < len(missing) < len(needed):
            raise CorpusError(
                f"corpus {self.corpus.root}: cannot be used for task '{self.config.task}': it has "
                f"no {' and no '.join(missing)}; expected all of {', '.join(needed)}, or none of "
                "them; prepare it again into an empty folder (a table: with all of them in its "
                f"column {own}split, or without the column)"
            )
        return "" if missing else own

    def splits(self, role: str) -> list[str]:
        """Return the splits of the corpus that the cuts of a role come from.

        With folds, each role has a part of all.
        """
        if not self.kind.folds:
            return [self.prefix + role]
        all_of = [self.prefix + name for name in dict.fromkeys((*ROLES, *self.kind.roles))]
        return [split for split in all_of if split in self.corpus.info.splits]

    def split(self, role: str) -> str:
        """Return the name of splits(), for messages and stores."""
        return "+".join(self.splits(role))

    def size(self, role: str) -> SplitInfo:
        """Return the size of splits()."""
        parts = [self.corpus.info.splits[split] for split in self.splits(role)]
        return SplitInfo(
            utterances=sum(part.utterances for part in parts),
            hours=round(sum(part.hours for part in parts), 4),
            speakers=max(part.speakers for part in parts),
        )

    def all_cuts(self, role: str) -> Iterable[Cut]:
        """Yield the cuts of splits()."""
        for split in self.splits(role):
            yield from self.corpus.cuts(split)

    def cuts(self, role: str) -> list[Cut]:
        """Return the cuts of splits(), at most `limit` of them."""
        return sample(self.all_cuts(role), self.limit)

    def task(self) -> BaseTask:
        """Return a new task with the lists of the corpus."""
        task = self.kind(self.config)
        task.lists = {name: self.corpus.list(name) for name in self.corpus.info.lists}
        return task

    def folds(self) -> list[Fold]:
        """Return the trainings: one, or one for each value of the task's fold label."""
        label = self.kind.folds
        if not label:
            return [self._fold({role: self.cuts(role) for role in ROLES})]
        cuts, task = self.cuts("test"), self._trained()
        folds = []
        for name in sorted({field_of(cut, label) for cut in cuts}):
            train, valid = task.hold_out([cut for cut in cuts if field_of(cut, label) != name])
            test = [cut for cut in cuts if field_of(cut, label) == name]
            folds.append(self._fold({"train": train, "valid": valid, "test": test}, name))
        return folds

    def _fold(self, cuts: Mapping[str, list[Cut]], name: str = "") -> Fold:
        task = self._trained()
        task.fit_units(cuts["train"])
        return Fold(task, cuts, name)

    def _trained(self) -> Task:
        task = self.task()
        assert isinstance(task, Task)
        return task

    def forward_pass(self, upstream: Upstream, role: str) -> Pass:
        """Return the pass of an upstream over the audio of a role."""
        config = self.config
        return Pass(upstream, config.crops_of(role), self.kind.effects, config.pass_precision)

    def identity(self, upstream: Upstream, *, training: bool = False) -> Identity:
        """Return the identity of this job's record on `upstream`.

        Args:
            upstream: The model.
            training: Leave out how the result is decoded.
        """
        settings = self.config.identity()
        if training:
            settings = {k: v for k, v in settings.items() if not k.startswith("decode.")}
        return Identity(
            fingerprint=upstream.fingerprint,
            corpus=self.corpus.info.digest,
            recipe=self.recipe,
            task=self.config.task,
            version=self.kind.version,
            mode=self.config.mode,
            settings=settings,
            limit=self.limit,
        )

    def key(self, upstream: Upstream) -> str:
        """Return the key of identity()."""
        return self.identity(upstream).key


def taken(
    task: BaseTask, cuts: Mapping[str, Sequence[Cut]]
) -> tuple[Mapping[str, Sequence[Cut]], dict[str, int]]:
    """Let a task take the cuts by role; return those that can be used, and counts for the record.

    Raises:
        CorpusError: See BaseTask.take.
    """
    used = task.take(cuts)
    counts = {f"{role}_utterances": len(each) for role, each in cuts.items()} | task.counts
    left_out = {f"{role}_left_out": len(cuts[role]) - len(each) for role, each in used.items()}
    return used, counts | {name: number for name, number in left_out.items() if number}


def sample(cuts: Iterable[Cut], limit: int | None) -> list[Cut]:
    """Return `limit` cuts in a fixed pseudo-random choice, or all of them."""
    cuts = list(cuts)
    if limit is None or limit >= len(cuts):
        return cuts
    return random.Random(0).sample(cuts, limit)  # noqa: S311


def named(names: Sequence[str], count: int = NAMED) -> str:
    """Return the first few names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
