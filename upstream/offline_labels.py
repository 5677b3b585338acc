"""Labels of a pretraining recipe: opened for a run, or created and reported by `kmeans`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mt4ssl_bench.clustering.make_labels import make_labels
from mt4ssl_bench.clustering.purity import measure
from mt4ssl_bench.data.alignment import TIER, read_alignment
from mt4ssl_bench.data.corpus import Corpus
from mt4ssl_bench.data.label_store import CarriedLabels, LabelStore
from mt4ssl_bench.data.remote import is_url
from mt4ssl_bench.data.shared_ids import refuse_shared_ids
from mt4ssl_bench.errors import ConfigError
from mt4ssl_bench.settings import Json
from mt4ssl_bench.training.distributed import World
from mt4ssl_bench.training.launch import joined
from mt4ssl_bench.upstream.config import PretrainConfig
from mt4ssl_bench.upstream.recipe import load_config


def open_corpora(config: PretrainConfig) -> list[Corpus]:
    """Return the recipe's corpora.

    Raises:
        BenchError: If none is named, or one cannot be opened.
    """
    if not config.data.corpus:
        raise ConfigError("data.corpus: no corpus named; for example data.corpus=corpora/mine")
    return [Corpus.open(path) for path in config.data.corpus]


def open_labels(
    config: PretrainConfig, corpora: Sequence[Corpus], digest: str, world: World
) -> LabelStore | CarriedLabels:
    """Return the labels of a run.

    They are those of the store that the recipe names, those that all shards carry, or new ones.

    Raises:
        BenchError: If they do not fit, or two corpora share an utterance id, by which labels are
            found.
    """
    offline, data = config.targets.offline, config.data
    carried = not offline.labels and all(corpus.info.labels for corpus in corpora)
    if not carried:
        refuse_shared_ids(corpora, (data.train, data.valid))
    if offline.labels:
        return LabelStore(Path(offline.labels)).check(digest, offline.clusters)
    if carried:
        return CarriedLabels([corpus.info.labels for corpus in corpora], digest, offline.clusters)
    if remote := [corpus.where for corpus in corpora if is_url(corpus.where)]:
        raise ConfigError(
            f"{remote[0]}: its shards carry no labels; shard it with --labels, name "
            "targets.offline.labels, or set targets.offline.weight=0"
        )
    return make_labels(
        corpora, (data.train, data.valid), offline, out=None, seed=config.fit.seed, world=world
    )


def kmeans(
    recipe: str,
    *keys: str,
    out: Path | None = None,
    alignment: Path | None = None,
    tier: str = TIER,
    device: str = "auto",
) -> Mapping[str, Json]:
    """Create the labels of a pretraining recipe.

    Args:
        recipe: A recipe's name or a .yaml file.
        keys: `a.b=c` keys that differ from the recipe.
        out: The label store; by default a folder inside the first corpus.
        alignment: Time-aligned phones, CTM or TextGrid files.
        tier: The tier of the TextGrid files that holds the phones.
        device: A torch device, or "auto" for the first available of cuda, mps and cpu.

    Returns:
        Folder, settings and report of the store, with phone purity if there is an alignment.
    """
    config = load_config(recipe, keys)
    corpora = open_corpora(config)
    refuse_shared_ids(corpora, (config.data.train, config.data.valid))
    phones = read_alignment(alignment, tier) if alignment else None  # shows damage at once
    splits, offline = (config.data.train, config.data.valid), config.targets.offline
    with joined(device) as world:
        store = make_labels(corpora, splits, offline, out=out, seed=config.fit.seed, world=world)
        if phones and world.main:
            store = store.report(measure(store, phones))
    facts = asdict(store.info)
    report = facts.pop("report")
    if "pnmi" not in report:
        report["phones"] = (
            "no purity or PNMI without time-aligned phones; --alignment takes a CTM file or "
            "TextGrid files"
        )
    return {"folder": str(store.folder), **facts, **report}
