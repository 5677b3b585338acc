"""Query by example: which documents contain a spoken query, by each layer and without training."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from mt4ssl_bench.data import audio
from mt4ssl_bench.data.cut import Cut, speaker_of
from mt4ssl_bench.data.effects import Effect, Gain
from mt4ssl_bench.data.lists import check_columns
from mt4ssl_bench.downstream.config import BaseConfig
from mt4ssl_bench.downstream.job import named
from mt4ssl_bench.downstream.layers.search import (
    SHORTEST,
    Distance,
    Named,
    scale_of,
    search,
    z_norm,
)
from mt4ssl_bench.downstream.task import LayerTask, Scored
from mt4ssl_bench.errors import CorpusError
from mt4ssl_bench.features.file import FeatureSet
from mt4ssl_bench.results.answers import Answer
from mt4ssl_bench.results.intervals import Floats
from mt4ssl_bench.results.metrics import Metric

LOGGER = logging.getLogger(__name__)
COLUMNS = ("query_id", "document_id")  # of the list
DECIMALS = 4  # of a score, as in the files that s3prl writes for QUESST's scorer
ABOUT = {  # what is counted
    "queries_without_occurrence": "queries that occur in no document are left out",
    "short_queries": f"queries with fewer than {SHORTEST} frames score all documents alike",
    "flat_queries": "queries with constant features score all documents alike",
}


@dataclass(frozen=True, kw_only=True)
class QueryConfig(BaseConfig):
    """The keys of query by example."""

    distance: Distance = "cosine_exp"  # between frames of a query and a document


class QueryByExample(LayerTask):
    """SUPERB's QbE: documents that contain a spoken query, by DTW; the best layer on valid."""

    name: ClassVar[str] = "query"
    superb: ClassVar[str] = "QbE"
    metrics: ClassVar[tuple[str | Metric, ...]] = ("mtwv",)
    reads: ClassVar[tuple[str, ...]] = ("list:matches",)
    roles: ClassVar[tuple[str, ...]] = ("documents", "valid", "test")
    shared: ClassVar[str] = "documents"
    effects: ClassVar[tuple[Effect, ...]] = (Gain(-3.0),)
    Config: ClassVar[type[BaseConfig]] = QueryConfig
    config: QueryConfig

    def __init__(self, config: QueryConfig) -> None:
        super().__init__(config)
        self.documents: list[Cut] = []
        self.matches: dict[str, set[str]] = {}  # by query

    def take(self, cuts: Mapping[str, Sequence[Cut]]) -> Mapping[str, Sequence[Cut]]:
        """See BaseTask.take: documents and what they contain; silent queries are left out."""
        # neighbors of similar length are searched together
        self.documents = sorted(cuts[self.shared], key=lambda cut: (cut.duration, cut.id))
        documents = {cut.id for cut in self.documents}
        queries = {role: each for role, each in cuts.items() if role != self.shared}
        self.matches = {cut.id: set() for each in queries.values() for cut in each}
        lost = []
        rows = self.lists["matches"]
        check_columns(rows, COLUMNS, "task 'query', list 'matches'")
        for query, document in ((row[name] for name in COLUMNS) for row in rows):
            if query in self.matches and document in documents:
                self.matches[query].add(document)
            else:
                lost.append(f"'{query}' in '{document}'")
        if lost:
            LOGGER.warning(
                "query: skipping %d of %d rows of list 'matches', which name no query of valid and "
                "test or no document: %s",
                *(len(lost), len(rows), named(lost)),
            )
            self.counts["matches_left_out"] = len(lost)
        heard = {role: _audible(each, role) for role, each in queries.items()}
        return {self.shared: self.documents, **heard}

    def score(
        self,
        cuts: Sequence[Cut],
        features: FeatureSet,
        stride: int,  # noqa: ARG002 - frames are not placed in time
        device: str,
    ) -> Scored:
        """See LayerTask.score."""
        queries = [cut for cut in cuts if self.matches[cut.id]]
        if not queries:
            raise CorpusError(
                f"none of {len(cuts)} queries occurs in one of {len(self.documents)} documents; "
                "expected rows of both in list 'matches'"
            )
        scale = scale_of(_read(features, [*self.documents, *cuts]))

        def scaled(some: Iterable[Cut]) -> Iterator[Named]:
            return ((name, scale(each).to(device)) for name, each in _read(features, some))

        searched = [values for _, values in scaled(queries)]
        names, parts = [], []
        for batch, part in search(searched, scaled(self.documents), self.config.distance):
            names += batch
            parts.append(part)
        scores = z_norm(torch.cat(parts, dim=2).double().numpy())  # (L, Q, M)
        short = [len(each[0]) < SHORTEST for each in searched]
        flat = [not scores[:, place].any() for place in range(len(queries))]  # in every layer
        reasons = list(zip(queries, short, flat, strict=True))
        unusual = {
            "queries_without_occurrence": [cut.id for cut in cuts if not self.matches[cut.id]],
            "short_queries": [cut.id for cut, is_short, _ in reasons if is_short],
            "flat_queries": [cut.id for cut, is_short, all_0 in reasons if all_0 and not is_short],
        }
        for reason, some in unusual.items():
            if some:
                LOGGER.warning("query: %d %s: %s", len(some), ABOUT[reason], named(some))
        counts = {reason: len(some) for reason, some in unusual.items() if some}
        counts["queries"] = len(queries)
        counts["occurrences"] = sum(len(self.matches[cut.id]) for cut in queries)
        return Scored(
            answers=[self._answers(queries, names, each) for each in scores], counts=counts
        )

    def _answers(
        self, queries: Sequence[Cut], documents: Sequence[str], scores: Floats
    ) -> list[Answer]:
        """Return an answer for each query, from scores (Q, M) of a layer; see the metric."""
        answers: list[Answer] = []
        for cut, row in zip(queries, scores.round(DECIMALS).tolist(), strict=True):
            found = dict(sorted(zip(documents, row, strict=True)))
            answers.append(
                {
                    "id": cut.id,
                    "speaker": speaker_of(cut) or None,
                    "reference": json.dumps(sorted(self.matches[cut.id]), ensure_ascii=False),
                    "hypothesis": json.dumps(found, ensure_ascii=False),
                }
            )
        return answers


def _audible(cuts: Sequence[Cut], role: str) -> list[Cut]:
    """Return the cuts whose samples are not all 0; log the others.

    Raises:
        CorpusError: If there is none.
    """
    heard = [cut for cut in cuts if audio.read(cut).any()]
    if len(heard) < len(cuts):
        known = {cut.id for cut in heard}
        silent = [cut.id for cut in cuts if cut.id not in known]
        text = f"{len(silent)} of {len(cuts)} queries of {role} are silence: {named(silent)}"
        if not heard:
            raise CorpusError(f"{text}; expected speech")
        LOGGER.warning("query: leaving out: %s", text)
    return heard


def _read(features: FeatureSet, cuts: Iterable[Cut]) -> Iterator[Named]:
    for cut in cuts:
        yield cut.id, torch.from_numpy(features.get(cut.id))


TASK = QueryByExample
