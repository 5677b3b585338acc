"""Numbers with intervals: metrics, records, and the tables made of them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mt4ssl_bench.results.record import SCHEME, Identity, Result, digest, former_key
    from mt4ssl_bench.results.record_files import (
        find,
        hypotheses_path,
        load,
        load_all,
        load_hypotheses,
        paths,
        record_path,
        save,
        stem,
    )
    from mt4ssl_bench.results.record_parts import CorpusRecord, SplitRecord, Trial, UpstreamRecord

__all__ = [
    "SCHEME",
    "CorpusRecord",
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


def __getattr__(name: str) -> object:
    """Import a name of __all__ when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    names = ("record", "record_parts", "record_files")
    homes = (import_module(f"{__name__}.{home}") for home in names)
    return next(getattr(home, name) for home in homes if hasattr(home, name))
