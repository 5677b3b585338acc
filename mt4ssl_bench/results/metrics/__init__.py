"""Metrics by name, one file for each family; other packages add theirs through entry points."""

from mt4ssl_bench.registry import Registry
from mt4ssl_bench.results.metrics.metric import Metric, RatioOfSums, Score

__all__ = ["METRICS", "Metric", "RatioOfSums", "Score"]

_RATES, _ACCURACY = (f"{__name__}.{family}" for family in ("error_rates", "accuracy"))
METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "abx_within": "mt4ssl_bench.abx.answers:WITHIN",
        "abx_across": "mt4ssl_bench.abx.answers:ACROSS",
        "per": f"{_RATES}:PER",
        "wer": f"{_RATES}:WER",
        "cer": f"{_RATES}:CER",
        "acc": f"{_ACCURACY}:ACC",
        "fold_acc": f"{_ACCURACY}:FOLD_ACC",
    },
    group="mt4ssl_bench.metrics",
    base=Metric,
)
