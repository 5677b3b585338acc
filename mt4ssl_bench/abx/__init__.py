"""ABX tests of phones, words and speakers: how well features discriminate them, without training.

A score is the error rate of "x is nearer to a than to b" over triplets of tokens (Schatz 2016,
"ABX-Discriminability Measures and Applications"), as ZeroSpeech and Libri-Light publish it:

    tokens, dropped = phone_tokens(read_alignment(ctm), speakers)
    spans = find_frames(tokens, {name: hidden.shape[1] for name, hidden in features.items()})
    tables = score_layers(spans, features.__getitem__)  # features: utterance id -> (layers, T, D)
    tables["across"].errors(), replicate(tables["across"]).interval(9)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mt4ssl_bench.abx.intervals import Interval, Replicates, replicate
    from mt4ssl_bench.abx.items import (
        Dropped,
        Token,
        near_lengths,
        phone_tokens,
        read_items,
        single_words,
        speaker_tokens,
        word_tokens,
        write_items,
    )
    from mt4ssl_bench.abx.plan import AbxConfig
    from mt4ssl_bench.abx.score import score_layers
    from mt4ssl_bench.abx.spans import Grid, Spans, find_frames
    from mt4ssl_bench.abx.table import Table, spread

__all__ = [
    "AbxConfig",
    "Dropped",
    "Grid",
    "Interval",
    "Replicates",
    "Spans",
    "Table",
    "Token",
    "find_frames",
    "near_lengths",
    "phone_tokens",
    "read_items",
    "replicate",
    "score_layers",
    "single_words",
    "speaker_tokens",
    "spread",
    "word_tokens",
    "write_items",
]

_HOMES = {
    "intervals": ("Interval", "Replicates", "replicate"),
    "items": (
        "Dropped",
        "Token",
        "near_lengths",
        "phone_tokens",
        "read_items",
        "single_words",
        "speaker_tokens",
        "word_tokens",
        "write_items",
    ),
    "plan": ("AbxConfig",),
    "score": ("score_layers",),
    "spans": ("Grid", "Spans", "find_frames"),
    "table": ("Table", "spread"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
