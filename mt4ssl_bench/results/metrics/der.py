"""Diarization error rate: missed, false-alarm and confused speaker time over that of the reference.

No collar, and overlapping speech is scored, as in SUPERB: NIST's md-eval without -c. Answers hold
turns as text (data/turns.py).
Shapes: N answers, I intervals, R speakers of the reference, H speakers of the hypothesis.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from mt4ssl_bench.data.cut import Turn
from mt4ssl_bench.data.turns import from_text, merged
from mt4ssl_bench.results.answers import Answer, Counts
from mt4ssl_bench.results.metrics.best_variant import by_rule
from mt4ssl_bench.results.metrics.metric import Metric, RatioOfSums


def time_counts(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> tuple[int, int, int, int]:
    """Return confused, missed, false-alarm and reference speaker time of a recording.

    Speakers are mapped one to one, such that the matched time is longest. Times are whole
    milliseconds, so that sums are exact.
    """
    sides = [
        [(round(1000 * t.start), round(1000 * t.end), t.label) for t in merged(turns)]
        for turns in (reference, hypothesis)
    ]
    bounds = np.unique([time for turns in sides for turn in turns for time in turn[:2]])
    lasts = np.diff(bounds)  # (I,)
    ours, theirs = (_active(turns, bounds[:-1]) for turns in sides)  # (R, I), (H, I)
    together = (ours * lasts) @ theirs.T  # (R, H), milliseconds
    matched = together[linear_sum_assignment(together, maximize=True)].sum()
    spoken, found = ours.sum(axis=0), theirs.sum(axis=0)  # (I,), numbers of speakers
    confused = (np.minimum(spoken, found) * lasts).sum() - matched
    missed = (np.maximum(spoken - found, 0) * lasts).sum()
    false_alarm = (np.maximum(found - spoken, 0) * lasts).sum()
    return int(confused), int(missed), int(false_alarm), int((spoken * lasts).sum())


def _active(
    turns: Sequence[tuple[int, int, str]], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return whether each speaker is active in the intervals that begin at `starts`."""
    names = list(dict.fromkeys(label for _, _, label in turns))
    active = np.zeros((len(names), len(starts)), dtype=np.int64)
    for start, end, label in turns:
        active[names.index(label)] |= (start <= starts) & (starts < end)
    return active


def der_counts(answers: Sequence[Answer]) -> Counts:
    """Return confused, missed, false-alarm and reference milliseconds of answers (N, 4)."""
    counts = [time_counts(from_text(a["reference"]), from_text(a["hypothesis"])) for a in answers]
    return np.array(counts, dtype=np.int64).reshape(-1, 4)


DER = Metric(
    name="der",
    value=RatioOfSums(counts=der_counts),
    order=40,
    over="recordings",
    parts=("confusion", "missed", "false alarm"),
    tokens="milliseconds",
)
DER_BY_RULE = by_rule(DER)
