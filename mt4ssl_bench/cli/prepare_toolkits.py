"""Commands of prepare for other toolkits: fairseq, Lhotse, Kaldi, Hugging Face datasets."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt4ssl_bench.cli.options import (
    LexiconFiles,
    Licence,
    Name,
    Out,
    Partial,
    Shards,
    finish,
    show_corpus,
    write_shards,
)
from mt4ssl_bench.console import stdout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mt4ssl_bench.data.corpus import Corpus
    from mt4ssl_bench.data.labels import LabelStore

    Labels = Sequence[tuple[str, NDArray[np.uint16]]]  # by utterance id

app = typer.Typer()

Clusters = Annotated[
    int | None,
    typer.Option(min=1, help="Number of clusters of the labels. Default: largest label + 1."),
]
Splits = Annotated[
    list[str], typer.Argument(metavar="SPLIT=PATH...", help="For example train=data/train.tsv.")
]


def read_splits(given: Iterable[str]) -> dict[str, Path]:
    """Return "train=PATH" arguments as a table.

    Raises ConfigError for anything else, CorpusError for no such path.
    """
    from mt4ssl_bench.corpora.rows import SPLIT_NAME
    from mt4ssl_bench.errors import ConfigError, CorpusError

    splits: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not path or not SPLIT_NAME.fullmatch(name):
            raise ConfigError(f"'{one}': expected SPLIT=PATH, for example train=data/train.tsv")
        if not Path(path).exists():
            raise CorpusError(f"{path}: no such file or folder")
        splits[name] = Path(path)
    if not splits:
        raise ConfigError("no split named; expected SPLIT=PATH, for example train=data/train.tsv")
    return splits


def _least(labels: "Labels", clusters: int | None, holder: str) -> int:
    """Return the fewest clusters that the labels need.

    Raises ConfigError if `clusters` are fewer.
    """
    from mt4ssl_bench.errors import ConfigError

    least = max((int(values.max()) + 1 for _, values in labels if len(values)), default=0)
    if clusters and clusters < least:
        raise ConfigError(
            f"--clusters {clusters}: {holder} label {least - 1}; expected {least} or more"
        )
    return least


def _write_store(
    corpus: "Corpus", folder: str, labels: "Labels", *, clusters: int, features: str
) -> "LabelStore":
    """Write a prepared corpus's labels into its folder, and print how a recipe names them."""
    from mt4ssl_bench.data.labels import LabelInfo, write_labels

    info = LabelInfo(digest=corpus.info.digest, clusters=clusters, features=features)
    store = write_labels(corpus.root / folder, info, labels)
    stdout.print(
        f"  labels: targets.offline.labels={store.folder} targets.offline.clusters={clusters}"
    )
    return store


@app.command("fairseq")
def prepare_fairseq(
    splits: Splits,
    *,
    out: Out,
    name: Name = "fairseq",
    licence: Licence = "unknown",
    clusters: Clusters = None,
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    shards: Shards = None,
) -> None:
    """fairseq's .tsv lists; .wrd or .ltr beside them are texts, .phn phones, .km labels for the
    offline targets.

    Example: mt4ssl-bench prepare fairseq train=data/train.tsv valid=data/dev_other.tsv --out
    corpora/mine
    """
    from mt4ssl_bench.corpora.prepare import prepare_rows
    from mt4ssl_bench.corpora.sources.fairseq import fairseq, fairseq_labels

    files = read_splits(splits)
    labels = list(fairseq_labels(files))  # all are read before anything is written
    least = _least(labels, clusters, "the .km files hold")
    corpus = prepare_rows(
        fairseq(files),
        out,
        source=next(iter(files.values())),
        partial=partial,
        lexicon=lexicon or (),
        phones_from=".phn",
        name=name,
        licence=licence,
    )
    show_corpus(corpus)
    store = None
    if labels:
        store = _write_store(
            corpus, "labels-km", labels, clusters=clusters or least, features="fairseq .km"
        )
    write_shards(corpus, shards, store)


@app.command("lhotse")
def prepare_lhotse(
    splits: Splits,
    *,
    out: Out,
    name: Name = "lhotse",
    licence: Licence = "unknown",
    labels_field: Annotated[
        str,
        typer.Option(
            help="Custom field of the cuts that holds cluster labels, 50 a second: integers with "
            "spaces between them, or a list (k2SSL's manifests: kmeans). Written as a label store."
        ),
    ] = "",
    clusters: Clusters = None,
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    shards: Shards = None,
) -> None:
    """Lhotse's cuts (.jsonl.gz), supervisions with their recordings beside them, or a Shar folder,
    for each split.

    Whatever 'lhotse prepare' writes (100 corpora and more) is taken so.

    <out>/audio gets the audio of Shar and, as FLAC, of cuts that take some of a file's channels or
    change its speed.

    Example: mt4ssl-bench prepare lhotse train=cuts_train.jsonl.gz test=shar/test --out corpora/mine
    """
    from mt4ssl_bench.corpora.prepare import prepare_rows
    from mt4ssl_bench.corpora.sources.lhotse import lhotse, lhotse_labels
    from mt4ssl_bench.errors import ConfigError

    files = read_splits(splits)
    if clusters and not labels_field:
        raise ConfigError("--clusters: has no effect without --labels-field; name both")
    labels = list(lhotse_labels(files, labels_field)) if labels_field else []
    least = _least(labels, clusters, f"field '{labels_field}' holds")
    corpus = prepare_rows(
        lhotse(files, out / "audio"),
        out,
        source=next(iter(files.values())),
        partial=partial,
        lexicon=lexicon or (),
        phones_from="supervisions",
        name=name,
        licence=licence,
    )
    show_corpus(corpus)
    store = None
    if labels:
        features = f"lhotse custom field {labels_field}"
        store = _write_store(
            corpus, f"labels-{labels_field}", labels, clusters=clusters or least, features=features
        )
    write_shards(corpus, shards, store)


@app.command("kaldi")
def prepare_kaldi(
    splits: Splits,
    *,
    out: Out,
    language: Annotated[
        str, typer.Option(help="Language of all texts. English texts get phones from CMUdict.")
    ] = "en",
    name: Name = "kaldi",
    licence: Licence = "unknown",
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    shards: Shards = None,
) -> None:
    """Make a corpus from Kaldi's data folders: wav.scp, and segments, text and utt2spk if they
    exist.

    wav.scp must name files. Commands in it (lines with |) are not run; the error shows how to write
    their output to files. A line of 'text' with the id only is an utterance in which nobody speaks.

    Example: mt4ssl-bench prepare kaldi train=data/train valid=data/dev test=data/test --out
    corpora/mine
    """
    from mt4ssl_bench.corpora.prepare import prepare_rows
    from mt4ssl_bench.corpora.sources.kaldi import kaldi

    folders = read_splits(splits)
    finish(
        prepare_rows(
            kaldi(folders, language=language),
            out,
            source=next(iter(folders.values())),
            partial=partial,
            lexicon=lexicon or (),
            name=name,
            licence=licence,
        ),
        shards,
    )


@app.command("hf")
def prepare_hf(
    dataset: Annotated[str, typer.Argument(help="A name on the hub, or a folder of save_to_disk.")],
    *,
    out: Out,
    config: Annotated[str | None, typer.Option(help="The dataset's configuration.")] = None,
    text: Annotated[
        str, typer.Option(help="Column; default: text, sentence, transcription, ...")
    ] = "",
    speaker: Annotated[
        str, typer.Option(help="Column; default: speaker_id, speaker, client_id.")
    ] = "",
    language: Annotated[str, typer.Option(help="Of all texts; English ones get phones.")] = "en",
    name: Name = "",
    licence: Licence = "unknown",
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    shards: Shards = None,
) -> None:
    """A dataset of Hugging Face; its audio goes to <out>/audio as it is. Needs the extra hf-data.

    Example: mt4ssl-bench prepare hf google/fleurs --config en_us --text transcription --out
    corpora/fleurs
    """
    from mt4ssl_bench.corpora.prepare import prepare_rows
    from mt4ssl_bench.corpora.sources.hf_dataset import hugging_face

    rows = hugging_face(
        dataset, config, out / "audio", text=text, speaker=speaker, language=language
    )
    finish(
        prepare_rows(
            rows,
            out,
            source=Path(dataset),
            partial=partial,
            lexicon=lexicon or (),
            name=name or Path(dataset).name,
            licence=licence,
        ),
        shards,
    )
