"""Metrics by name: every Metric of a family, which is a file of this folder.

Other packages add theirs through entry points.
"""

from importlib import import_module
from pkgutil import iter_modules

from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results.metrics.metric import Metric, RatioOfSums, Score

__all__ = ["METRICS", "Metric", "RatioOfSums", "Score"]

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        value.name: f"{__name__}.{family.name}:{attribute}"
        for family in iter_modules(__path__)
        for attribute, value in vars(import_module(f"{__name__}.{family.name}")).items()
        if isinstance(value, Metric)
    }
    | {f"abx_{mode}": f"mt4ssl_bench.abx.answers:{mode.upper()}" for mode in ("within", "across")},
    group="mt4ssl_bench.metrics",
    base=Metric,
)
