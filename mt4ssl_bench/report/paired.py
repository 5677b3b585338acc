"""Differences of a column's records to the best one, by the paired bootstrap of `compare`."""

import logging
from collections.abc import Sequence

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.intervals import Interval, paired_difference
from mt4ssl_bench.results.ranking import Answers, comparable
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import metric_of, system_of

LOGGER = logging.getLogger(__name__)


def differences_to_best(
    records: Sequence[Result], answers: Answers
) -> tuple[int, dict[int, tuple[float, Interval]]]:
    """Return the index of the best record of a column, and the differences of others to it.

    They are of the main metric, other minus best, by index. Only records that ranking.comparable()
    returns are compared; the others are in neither.
    """
    rows = comparable(records, answers)
    best = max(rows, key=lambda index: records[index].main.goodness, default=0)
    found: dict[int, tuple[float, Interval]] = {}
    try:
        metrics = {i: metric_of(records[i], records[i].main_metric, rows[i]) for i in rows}
        systems = {i: system_of(metrics[i], rows[i]) for i in rows}
        for index in rows:
            if index != best:
                units, bounds = metrics[best].units_of(rows[best]), metrics[best].bounds
                found[index] = paired_difference(systems[index], systems[best], units, bounds)
    except ConfigError as error:
        LOGGER.warning("differences: %s; skipping", error)
    return best, found
