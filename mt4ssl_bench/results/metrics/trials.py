"""Errors of verification trials: equal error rate and minimal detection cost, over speakers.

A trial is an answer: its hypothesis is a score, its reference "target" or "nontarget", its labels
are the speakers of its two utterances. Shapes: N trials, S resamples, P points of a ROC curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Bounds, Floats, Resampled
from mt4ssl_bench.results.metrics.best_variant import by_rule
from mt4ssl_bench.results.metrics.metric import Fast, Metric

TARGET, NONTARGET = "target", "nontarget"
SPEAKERS = ("enrol_speaker", "test_speaker")  # labels
P_TARGET = 0.01  # probability of a target trial that the detection cost supposes


@dataclass(frozen=True)
class FromROC(Fast):
    """A number of a ROC curve, which has one point for each different score.

    `of` takes the curve's false and true positive rates (S, P), from (0, 0) to (1, 1).
    """

    of: Callable[[Floats, Floats], Floats]

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        scores = np.array([float(answer["hypothesis"]) for answer in answers])
        order = np.argsort(-scores, kind="stable")
        target = np.array([answers[n]["reference"] == TARGET for n in order], dtype=np.float64)
        last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each score

        def rates(weights: Floats) -> Floats:
            counts = np.cumsum(weights, axis=1)[:, last]
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample may lack a kind
                shares: Floats = counts / counts[:, -1:]
            return np.pad(shares, ((0, 0), (1, 0)))

        def values(weights: Floats) -> Floats:
            weights = weights[:, order]
            return self.of(rates(weights * (1 - target)), rates(weights * target))

        return values


def equal_error_rate(false: Floats, true: Floats) -> Floats:
    """Return 100 * the false positive rate (S,) at which as many targets are missed.

    Points are joined by lines, as scikit-learn's ROC curve with root finding has them.
    """
    gap = 1 - false - true
    after = (gap <= 0).argmax(axis=1)
    rows, before = np.arange(len(gap)), after - 1
    share = gap[rows, before] / (gap[rows, before] - gap[rows, after])
    start = false[rows, before]
    rate: Floats = 100 * (start + share * (false[rows, after] - start))
    return rate


def minimal_cost(false: Floats, true: Floats) -> Floats:
    """Return NIST's detection cost (S,) at the best threshold; 1 is that of rejecting all.

    Costs of a miss and of a false alarm are 1.
    """
    cost: Floats = (1 - true + false * (1 - P_TARGET) / P_TARGET).min(axis=1)
    return cost


def speakers(answers: Sequence[Answer]) -> list[tuple[str, ...]]:
    """Return the speakers of each trial, which are what is independent."""
    return [tuple(answer["labels"][name] for name in SPEAKERS) for answer in answers]


EER = Metric(name="eer", value=FromROC(equal_error_rate), order=40, units=speakers, over="speakers")
EER_BY_RULE = by_rule(EER)
MIN_DCF = Metric(
    name="mindcf",
    value=FromROC(minimal_cost),
    title="minDCF",
    unit="",
    order=41,
    units=speakers,
    over="speakers",
    bounds=Bounds(0.0, 1.0),
)
