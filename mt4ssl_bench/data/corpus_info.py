"""corpus.json, written last: what a corpus holds."""

import json
from dataclasses import dataclass, field
from typing import Any

from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.settings import Json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What one split holds."""

    utterances: int
    hours: float
    speakers: int


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """corpus.json: what a corpus is; `digest` covers all but paths, languages and notes.

    Attributes:
        fields: What every utterance of the corpus has: text, phones, speaker, the name of a label,
            "turns:<tier>" or "other:<name>".
        lists: Number of rows of each list.
    """

    format: int = FORMAT
    name: str
    digest: str
    splits: dict[str, SplitInfo]
    fields: list[str]
    languages: list[str] = field(default_factory=list)
    licence: str = "unknown"
    synthetic: bool = False  # made by a synthesiser: never a speech benchmark
    phones_from: str = ""  # "manifest", or the lexicon that made them
    shards: int = 0  # cuts per shard, where the splits lie in shards and not in files
    labels: dict[str, Json] = field(default_factory=dict)  # of the label store that shards carry
    notes: dict[str, Any] = field(default_factory=dict)  # exclusions, words without phones
    lists: dict[str, int] = field(default_factory=dict)


def parse(content: bytes, where: str) -> CorpusInfo:
    """Return the content of corpus.json; raises CorpusError if it is something else."""
    try:
        raw = json.loads(content.decode())
        raw["splits"] = {name: SplitInfo(**split) for name, split in raw["splits"].items()}
        info = CorpusInfo(**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"{where}: not a corpus of this version ({error}); prepare it again"
        ) from None
    if info.format != FORMAT:
        raise CorpusError(
            f"{where}: format {info.format}, this version reads {FORMAT}; prepare it again"
        )
    return info
