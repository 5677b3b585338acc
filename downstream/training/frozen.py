"""Training on a frozen upstream: one pass over the audio, then all heads from stored features.

Shapes: L hidden states, B batch, T frames, D dimension.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from mt4ssl_bench.data.cut import Cut
from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.heads.weighted_sum import layer_weights
from mt4ssl_bench.downstream.job import ROLES, Fold, Job
from mt4ssl_bench.downstream.layers.best_heads import best_of_layers, by_layer
from mt4ssl_bench.downstream.training.choose_rate import choose, chosen
from mt4ssl_bench.downstream.training.decode_test import decode_fold
from mt4ssl_bench.downstream.training.fold_heads import FoldHeads, units_of
from mt4ssl_bench.downstream.training.held_means import held
from mt4ssl_bench.downstream.training.readings import readings
from mt4ssl_bench.downstream.training.trained import Decoded, Trained
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.shared_work import Work, finish, share
from mt4ssl_bench.training.run_folder import discard


class FrozenTraining:
    """The heads of one row: train() shares the work with other processes, result() collects it.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        folds: One training, or one for each value of the task's fold label.
        source: The name that the upstream is loaded by.
        folder: Of the trained heads; an interrupted training continues from it.
        store: Of the features; the processes of its world share the heads, too.
        device: Torch device of the heads.
        clock: Times the stages.
    """

    def __init__(
        self,
        model: Upstream,
        job: Job,
        folds: Sequence[Fold],
        *,
        source: str,
        folder: Path,
        store: FeatureStore,
        device: str,
        clock: Clock,
    ) -> None:
        self.model, self.job, self.folds, self.source = model, job, folds, source
        self.folder, self.store, self.clock = folder, store, clock
        self.title = f"{job.recipe} on {model.name}"
        self._features: dict[str, FeatureSet] = {}
        places = [(fold, f"fold-{n}" if fold.name else "") for n, fold in enumerate(folds, 1)]
        self.parts = [
            FoldHeads(model, job, fold, folder / name, self._of, device) for fold, name in places
        ]

    def train(self) -> Work[None]:
        """Store the features and train all heads, but for those of other processes.

        Raises:
            KeyboardInterrupt: If a stop was requested during training; its state is saved.
        """
        left, world = [part for part in self.parts if part.finished is None], self.store.world
        for role in ROLES if left else ("test",):
            self._features[role] = yield from self._share(role)
        self.clock.lap("features")
        units = units_of(left, self.folder, world.size, title=self.title)
        yield from share(units, start=world.rank / world.size)

    def result(self) -> Trained:
        """Return each seed's hypotheses at the rate that is best on valid, over folds and seeds.

        Raises:
            TrainingError: If no rate has a finite score of every seed in every fold.
        """
        folds, parts = self.folds, self.parts
        trainings = [part.collect(self.source) for part in parts]
        self.clock.lap("train", sum(training.seconds for training in trainings))
        discard(self.folder)
        metric = folds[0].task.choice
        trials = choose([training.trials for training in trainings], metric, self.title)
        numbers = chosen(trials)
        decoded, cuts = dict[int, Decoded](), list[Cut]()
        for number in best_of_layers(trials, metric):
            decoded[number], cuts = _decode(parts, number, with_lm=number in numbers)
        heads = [part.sweep.runs[number].head for number in numbers for part in parts]
        return Trained(
            decoded=[decoded[number] for number in numbers],
            cuts=cuts,
            trials=trials,
            layer_weights=_means([layer_weights(head) for head in heads]),
            layer_norms=_means([training.layer_norms for training in trainings]),
            counts=dict(sum((Counter(training.counts) for training in trainings), Counter())),
            layers=by_layer(trials, decoded),
        )

    def _of(self, role: str) -> FeatureSet:
        if role not in self._features:
            self._features[role] = finish(self._share(role))
        return self._features[role]

    def _share(self, role: str) -> Work[FeatureSet]:
        # with folds, each utterance is in one test set: one entry of the store serves all roles
        cuts = [cut for fold in self.folds for cut in fold.cuts["test" if fold.name else role]]
        info, work = self.job.corpus.info, self.job.forward_pass(self.model, role)
        folds, place = self.folds, (info.digest, self.job.split(role), cuts)
        often = readings(self.job, "train" if folds[0].name else role, len(cuts), len(folds))
        features = yield from self.store.shared(work, *place, corpus=info.name, readings=often)
        if role != "train" or not folds[0].task.pooled:
            return features
        return held(features, [cut.id for cut in cuts])  # read in every update


def _decode(parts: Sequence[FoldHeads], number: int, *, with_lm: bool) -> tuple[Decoded, list[Cut]]:
    """Return the hypotheses on test of one seed, of run `number` of each fold, and the cuts."""
    runs = [part.sweep.runs[number] for part in parts]
    decoded, cuts = Decoded(seed=runs[0].seed), list[Cut]()
    for part, run in zip(parts, runs, strict=True):
        logits = partial(part.logits, run.head)
        cuts += decode_fold(decoded, part.fold, logits, title=part.title)
        decoded.variants |= run.variants()
    if with_lm:
        logits = partial(parts[0].logits, runs[0].head)
        decoded.with_lm = parts[0].fold.task.answer_with_lm(logits)
    return decoded, cuts


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column."""
    return [fmean(column) for column in zip(*rows, strict=True)]
