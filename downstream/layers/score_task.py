"""A task without training: the scores of every layer, and the layer that is best on valid."""

import logging
from dataclasses import dataclass
from statistics import stdev
from typing import Protocol

from mt4ssl_bench.downstream.clock import Clock
from mt4ssl_bench.downstream.job import Job, taken
from mt4ssl_bench.downstream.task import LayerTask, Scored
from mt4ssl_bench.encoders.protocol import Upstream
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features.file import FeatureSet, JointFeatures
from mt4ssl_bench.features.store import FeatureStore
from mt4ssl_bench.results.metrics import Score
from mt4ssl_bench.results.record_parts import LayerScore
from mt4ssl_bench.shared_work import Work

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerResult:
    """The result of a task without training.

    Attributes:
        test: What was computed on test.
        scores: By metric: the scores of all layers on test.
        samples: By metric: the values of all layers on test under other samples of what is
            compared; none where all is compared.
        layer: The best layer by the main metric on the split `chosen_on`.
        chosen_on: A split; "test" where the corpus has no valid split with anything to score, which
            makes the score optimistic.
        counts: Of utterances, and of what was compared and left out.
    """

    test: Scored
    scores: dict[str, list[Score]]
    samples: dict[str, list[list[float]]]
    layer: int
    chosen_on: str
    counts: dict[str, int]

    @property
    def curves(self) -> dict[str, list[LayerScore]]:
        """The scores of all layers, for the record."""
        return {
            name: [self._row(name, layer, score) for layer, score in enumerate(scores)]
            for name, scores in self.scores.items()
        }

    def _row(self, name: str, layer: int, score: Score) -> LayerScore:
        row: LayerScore = {"value": score.value, "low": score.low, "high": score.high}
        if others := [sample[layer] for sample in self.samples[name]]:
            values = [score.value, *others]
            row |= {"spread": stdev(values), "samples": len(values)}
        return row


def score_task(
    model: Upstream, job: Job, store: FeatureStore, *, device: str, clock: Clock
) -> LayerResult:
    """Return the scores of every layer of an upstream.

    Args:
        model: The upstream.
        job: Task recipe and corpus.
        store: Of the features.
        device: Torch device.
        clock: Times the stages.

    Raises:
        CorpusError: If the test split holds nothing to score.
    """
    task = job.task()
    assert isinstance(task, LayerTask)
    on, counts = _scorer(task, model, job, store, device)
    test = on("test")
    metrics = task.all_metrics
    scores = {each.name: [each.score(answers) for answers in test.answers] for each in metrics}
    others = [on("test", other).answers for other in task.resampled()]
    samples = {
        each.name: [[each.value(answers) for answers in layers] for layers in others]
        for each in metrics
    }
    main, role = task.metric, "test"
    values = [score.value for score in scores[main.name]]
    if "valid" in job.roles:
        try:
            values = [main.value(answers) for answers in on("valid").answers]
            role = "valid"
        except CorpusError as error:
            LOGGER.warning("%s, split '%s': %s", job.recipe, job.split("valid"), error)
    pick = max if main.higher_is_better else min
    layer = values.index(pick(values))
    if role == "test" and len(values) > 1:
        LOGGER.warning(
            "%s on %s: layer %d is chosen on test itself, so its score is optimistic; a valid "
            "split with enough tokens avoids that",
            job.recipe,
            model.name,
            layer,
        )
    clock.lap("score")
    counts |= test.counts
    return LayerResult(test, scores, samples, layer, job.split(role), counts)


def share_passes(model: Upstream, job: Job, store: FeatureStore) -> Work[None]:
    """Store the features that score_task() reads; processes of one world share the passes."""
    cuts, _ = taken(job.task(), {role: job.cuts(role) for role in job.roles})
    for role, own in cuts.items():
        work, info = job.forward_pass(model, role), job.corpus.info
        yield from store.shared(work, info.digest, job.split(role), own, corpus=info.name)


class _Score(Protocol):
    """Scores a role, by the task or by another one on the same features."""

    def __call__(self, role: str, other: LayerTask | None = None) -> Scored:
        """Return the answers of each layer."""


def _scorer(
    task: LayerTask, model: Upstream, job: Job, store: FeatureStore, device: str
) -> tuple[_Score, dict[str, int]]:
    """Return the function that scores a role, and the numbers of utterances."""
    cuts, counts = taken(task, {role: job.cuts(role) for role in job.roles})
    info = job.corpus.info

    def features_of(role: str) -> FeatureSet:
        work, split = job.forward_pass(model, role), job.split(role)
        return store.features(work, info.digest, split, cuts[role], corpus=info.name)

    shared = {task.shared: features_of(task.shared)} if task.shared else {}

    def score(role: str, other: LayerTask | None = None) -> Scored:
        features = features_of(role)
        if shared:
            parts = {**shared, role: features}
            features = JointFeatures({cut.id: parts[name] for name in parts for cut in cuts[name]})
        return (other or task).score(cuts[role], features, model.stride, device)

    return score, counts
