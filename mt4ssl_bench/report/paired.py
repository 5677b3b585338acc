"""Differences of a column's records to the best one, by the paired bootstrap of `compare`."""

import logging
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.results.intervals import Interval, paired_difference
from mt4ssl_bench.results.ranking import Answers, items_of
from mt4ssl_bench.results.record import Result
from mt4ssl_bench.results.recorded_metrics import metric_of, system_of

LOGGER = logging.getLogger(__name__)


def differences_to_best(
    records: Sequence[Result], answers: Answers
) -> tuple[int, dict[int, tuple[float, Interval]]]:
    """Return the index of the best record of a column, and the differences of others to it.

    They are of the main metric, other minus best, by index. Only records with answers to the most
    common test items are compared, as in ranking.places(); the others are in neither.
    """
    answered = [sorted(answers(record), key=itemgetter("id")) for record in records]
    tests = [items_of(record, rows) for record, rows in zip(records, answered, strict=True)]
    (most, _), *_ = [*Counter(filter(None, tests)).most_common(1), ((), 0)]
    chosen = [index for index, items in enumerate(tests) if items and items == most]
    best = max(chosen, key=lambda index: records[index].main.goodness, default=0)
    found: dict[int, tuple[float, Interval]] = {}
    try:
        metrics = {i: metric_of(records[i], records[i].main_metric, answered[i]) for i in chosen}
        systems = {i: system_of(metrics[i], answered[i]) for i in chosen}
        for index in chosen:
            if index != best:
                units, bounds = metrics[best].units_of(answered[best]), metrics[best].bounds
                found[index] = paired_difference(systems[index], systems[best], units, bounds)
    except ConfigError as error:
        LOGGER.warning("differences: %s; skipping", error)
    return best, found
