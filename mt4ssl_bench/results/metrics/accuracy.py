"""Accuracy: the percentage of answers that equal their reference, also as a mean of folds."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mt4ssl_bench.data.cut import FOLD
from mt4ssl_bench.results.answers import Answer, Counts
from mt4ssl_bench.results.intervals import Floats, Resampled
from mt4ssl_bench.results.metrics.metric import Confusions, Fast, Metric, RatioOfSums


def wrong_answers(answers: Sequence[Answer]) -> Counts:
    """Return the error counts (N, 4) of whole answers: one token each."""
    wrong = [(int(a["reference"] != a["hypothesis"]), 0, 0, 1) for a in answers]
    return np.array(wrong, dtype=np.int64).reshape(-1, 4)


def confused_answers(answers: Sequence[Answer]) -> Confusions:
    """Return how often each wrong answer was given for each reference."""
    pairs = ((answer["reference"], answer["hypothesis"]) for answer in answers)
    return Counter((reference, answer) for reference, answer in pairs if reference != answer)


ACC = Metric(
    name="acc",
    value=RatioOfSums(counts=wrong_answers, right=True),
    higher_is_better=True,
    order=30,
    confusions=confused_answers,
    tokens="answers",
)


class MeanOfFolds(Fast):
    """The mean of the folds' accuracies; an answer's label FOLD names its fold."""

    def outcomes(self, answers: Sequence[Answer], /) -> Floats:
        """See Telling: right or wrong."""
        return np.array([a["reference"] == a["hypothesis"] for a in answers], dtype=np.float64)

    def resampled(self, answers: Sequence[Answer], /) -> Resampled:
        """See Fast."""
        names = [answer.get("labels", {}).get(FOLD, "") for answer in answers]
        member = np.array([[name == fold for fold in sorted(set(names))] for name in names], float)
        right = self.outcomes(answers)[:, None] * member  # (N, F)

        def values(weights: Floats) -> Floats:
            with np.errstate(divide="ignore", invalid="ignore"):  # a fold may be without answers
                shares: Floats = (weights @ right) / (weights @ member)  # (S, F)
            means: Floats = 100.0 * np.nanmean(shares, axis=1)
            return means

        return values


FOLD_ACC = Metric(
    name="fold_acc",
    value=MeanOfFolds(),
    title="ACC (mean of folds)",
    higher_is_better=True,
    order=30,
    confusions=confused_answers,
    tokens="answers",
)
