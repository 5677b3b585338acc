"""The metric of a record: by the edit counts of its answers, or as it is installed."""

from collections.abc import Sequence

from mt4ssl_bench.errors import BenchError, ConfigError, with_class
from mt4ssl_bench.results.answers import WITH_LM, Answer, has_counts, stored_counts
from mt4ssl_bench.results.intervals import System
from mt4ssl_bench.results.metrics import METRICS, Metric, RatioOfSums
from mt4ssl_bench.results.record import Result


def metric_of(result: Result, name: str, answers: Sequence[Answer]) -> Metric:
    """Return a metric of a record; if the answers carry its edit counts, it needs no plug-in.

    Raises:
        ConfigError: If it is not installed, or cannot be used.
    """
    score = result.metrics[name]
    if name == result.main_metric and score.over == "utterances" and has_counts(answers):
        value = RatioOfSums(counts=stored_counts, right=score.higher_is_better)
        return Metric(name=name, value=value, higher_is_better=score.higher_is_better)
    return installed(name.removesuffix(WITH_LM))


def installed(name: str) -> Metric:
    """Return a metric of this package or of another one.

    Raises:
        ConfigError: If it is not installed, or cannot be used.
    """
    if name not in METRICS:
        raise ConfigError(f"metric '{name}' is not installed; install the package that defines it")
    return METRICS.get(name)


def system_of(metric: Metric, answers: Sequence[Answer]) -> System:
    """Return metric.system(answers).

    Raises:
        ConfigError: If the metric fails, for example on answers without its labels.
    """
    try:
        return metric.system(answers)
    except BenchError:
        raise
    # somebody else's metric raises what it likes
    except Exception as error:  # noqa: BLE001
        raise ConfigError(f"metric '{metric.name}' fails ({with_class(error)})") from None
