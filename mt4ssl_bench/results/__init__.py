"""Numbers one can trust: records with intervals, and what is made of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "SCHEME",
    "CorpusRecord",
    "Hypothesis",
    "Identity",
    "Result",
    "SplitRecord",
    "Trial",
    "UpstreamRecord",
    "digest",
    "find",
    "former_key",
    "hypotheses_path",
    "load",
    "load_all",
    "load_hypotheses",
    "paths",
    "record_path",
    "save",
    "stem",
]

if TYPE_CHECKING:
    from mt4ssl_bench.results.record import (
        SCHEME,
        CorpusRecord,
        Hypothesis,
        Identity,
        Result,
        SplitRecord,
        Trial,
        UpstreamRecord,
        digest,
        find,
        former_key,
        hypotheses_path,
        load,
        load_all,
        load_hypotheses,
        paths,
        record_path,
        save,
        stem,
    )


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of the names above
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module("mt4ssl_bench.results.record"), name)
