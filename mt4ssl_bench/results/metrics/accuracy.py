"""Accuracy: the percentage of answers that equal their reference."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mt4ssl_bench.results.answers import Answer, Counts
from mt4ssl_bench.results.metrics.metric import Confusions, Metric, RatioOfSums


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
