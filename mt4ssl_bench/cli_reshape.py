"""The command line's corpora made from corpora: segment and shard; nothing heavy is imported before a command runs."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.cli_shared import Out, show_corpus

LOGGER = logging.getLogger(__name__)

app = typer.Typer()

Source = Annotated[str, typer.Argument(metavar="CORPUS", help="A prepared corpus.")]


class By(StrEnum):
    """Where long recordings are cut."""

    SILENCE = "silence"
    WINDOWS = "windows"


@app.command()
def segment(
    corpus: Source,
    *,
    out: Out,
    max_seconds: Annotated[float, typer.Option(help="No piece is longer.")] = 30.0,
    min_seconds: Annotated[
        float, typer.Option(help="What is shorter is left out, and counted.")
    ] = 2.0,
    by: Annotated[
        By,
        typer.Option(
            help="silence: end pieces where 0.2 s are quietest; windows: as few equal ones as fit."
        ),
    ] = By.SILENCE,
) -> None:
    """Cut long recordings into pieces for pretraining; the audio files stay as they are.

    Pieces have no text: a transcript of the whole says nothing of a part.

    Example: mt4ssl-bench segment corpora/podcasts --out corpora/podcasts_30s
    """
    from mt4ssl_bench.corpus import Corpus
    from mt4ssl_bench.segment import segment_corpus

    made = segment_corpus(
        Corpus.open(corpus), out, max_seconds=max_seconds, min_seconds=min_seconds, by=by.value
    )
    show_corpus(made)
    for key, value in made.info.notes.items():
        if isinstance(value, int):
            typer.echo(f"  {key}: {value}")


@app.command()
def shard(
    corpus: Source,
    *,
    out: Out,
    labels: Annotated[
        Path | None, typer.Option(help="A label store ('mt4ssl-bench kmeans'), to carry along.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these; default: all.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Utterances per shard.")] = 200,
) -> None:
    """Write a corpus as Lhotse Shar: some hundred utterances per tar file, for object stores and network disks.

    The folder is a corpus again; data.corpus takes it, or the URL that it is served at (http, or any that Lhotse
    opens). Repeating the command continues it.

    Example: mt4ssl-bench shard corpora/librispeech --split train --split valid --out /data/shards
    """
    from mt4ssl_bench.corpus import Corpus
    from mt4ssl_bench.sharding import shard_corpus

    opened, store = Corpus.open(corpus), None
    if labels is not None:
        from mt4ssl_bench.upstream.labels import LabelStore

        store = LabelStore(labels)
        if store.info.digest != opened.info.digest:
            LOGGER.warning(
                "%s: not made from %s alone; train on all corpora that it was made from",
                labels,
                corpus,
            )
    show_corpus(shard_corpus(opened, out, splits=split or (), size=size, labels=store))
