"""The kmeans command: labels of a pretraining recipe, made and reported."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mt4ssl_bench.clustering.kmeans import make_labels
from mt4ssl_bench.clustering.purity import measure
from mt4ssl_bench.config import load
from mt4ssl_bench.data.alignment import TIER, read_alignment
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.training.distributed import joined
from mt4ssl_bench.upstream.config import PretrainConfig, check


def kmeans(
    recipe: str,
    *keys: str,
    out: Path | None = None,
    alignment: Path | None = None,
    tier: str = TIER,
    device: str = "auto",
) -> dict[str, Any]:
    """Make the labels of a pretraining recipe.

    Returns what is known of them, and of phones where these have times.
    """
    config = check(load(PretrainConfig, recipe, keys))
    if not config.data.corpus:
        raise ConfigError("data.corpus: no corpus named; for example data.corpus=corpora/mine")
    corpora = [Corpus.open(path) for path in config.data.corpus]
    splits, offline = (config.data.train, config.data.valid), config.targets.offline
    # a damaged file shows before any computation
    phones = read_alignment(alignment, tier) if alignment else None
    with joined(device) as world:
        store = make_labels(corpora, splits, offline, out=out, seed=config.fit.seed, world=world)
        if phones and world.main:
            store = store.report(measure(store, phones))
    facts = asdict(store.info)
    report = facts.pop("report")
    if "pnmi" not in report:
        report["phones"] = (
            "no purity or PNMI without phones in time; --alignment takes a CTM file or TextGrid "
            "files"
        )
    return {"folder": str(store.folder), **facts, **report}
