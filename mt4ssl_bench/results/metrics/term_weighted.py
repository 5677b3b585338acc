"""Maximum term-weighted value (MTWV): how well the occurrences of queries are found."""

import json
from collections.abc import Sequence

import numpy as np

from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Floats, Resampled
from mt4ssl_bench.results.metrics.metric import Fast, Metric

# C_fa / C_miss * (1 - P) / P with QUESST 2014's costs 1 and 100 and prior P = 0.0008
FALSE_ALARM = 12.49


class MaximumTermWeightedValue(Fast):
    """100 times the highest term-weighted value (TWV) of any threshold t.

    TWV(t) is 1 - the mean over queries of misses / occurrences + 12.49 * false alarms / others
    (Fiscus et al. 2007; QUESST 2014). A document whose score is t or more is found; it counts once,
    however often it contains the query. With t above all scores nothing is found, which is 0.

    An answer is a query that occurs at least once: its reference is a JSON list of the documents
    that contain it, its hypothesis a JSON object with the score of every document.
    """

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        found, others = zip(*map(_scores, answers), strict=True)
        # the value falls at every false alarm, so it is highest at the score of an occurrence
        thresholds = np.unique(np.concatenate(found))
        gains = np.stack(  # 1 - the query's part of TWV, of each threshold (N, K)
            [
                _share(hits, thresholds) - FALSE_ALARM * _share(alarms, thresholds)
                for hits, alarms in zip(found, others, strict=True)
            ]
        )

        def values(weights: Floats) -> Floats:
            best = (weights @ gains).max(axis=1) / weights.sum(axis=1)
            percent: Floats = 100.0 * np.maximum(best, 0.0)
            return percent

        return values


def _scores(answer: Answer) -> tuple[Floats, Floats]:
    """Return the sorted scores of the documents that contain the query, and of the others."""
    occurs = set(json.loads(answer["reference"]))
    found: dict[bool, list[float]] = {True: [], False: []}
    for document, score in json.loads(answer["hypothesis"]).items():
        found[document in occurs].append(score)
    return np.sort(found[True]), np.sort(found[False])


def _share(scores: Floats, thresholds: Floats) -> Floats:
    """Return the share of sorted scores that reach each threshold; 0 without any score."""
    below = np.searchsorted(scores, thresholds, side="left")
    share: Floats = (len(scores) - below) / max(len(scores), 1)
    return share


MTWV = Metric(
    name="mtwv",
    value=MaximumTermWeightedValue(),
    unit="x100",
    higher_is_better=True,
    order=50,
    over="queries",
)
