"""Commands of prepared corpora: check, segment, shard."""

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mt4ssl_bench.cli.options import CORPORA, Out, show_corpus
from mt4ssl_bench.console import stdout
from mt4ssl_bench.text import flat

if TYPE_CHECKING:
    from mt4ssl_bench.corpora.check_report import Report

LOGGER = logging.getLogger(__name__)

app = typer.Typer()

COMPARED = {
    "bytes": "the files' bytes; --full finds the same samples in another container too",
    "samples": "decoded samples; a copy in a lossy format is not found",
}
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


@app.command(rich_help_panel=CORPORA)
def check(
    corpus: Annotated[Path, typer.Argument(help="A prepared corpus.")],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Decode every sample, instead of reading headers.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file too.")
    ] = None,
) -> None:
    """Check a corpus: files, samples, duplicates, leaks between splits, texts and speakers.

    Prints what would stop a run or make a result invalid. Exit code 1 if a finding is an error;
    warnings and notes give 0.

    Example: mt4ssl-bench check corpora/librispeech --full --json check.json
    """
    from mt4ssl_bench.corpora.check import check_corpus
    from mt4ssl_bench.data.corpus import Corpus

    opened = Corpus.open(corpus)
    report = check_corpus(opened, full=full)
    read = "decoded" if full else "headers"
    stdout.print(f"{corpus}: {opened.info.name} ({opened.info.digest}), {read}")
    _print(report)
    if file is not None:
        about = {"corpus": opened.info.name, "digest": opened.info.digest, "full": full}
        from mt4ssl_bench.files import write_text

        write_text(file, json.dumps(about | report.to_json(), indent=1, ensure_ascii=False) + "\n")
    if report.invalid:
        raise typer.Exit(1)


def _print(report: "Report") -> None:
    from mt4ssl_bench.corpora.classes import shown

    for split, facts in report.splits.items():
        rates = ", ".join(
            f"{count:,} at {int(rate) / 1000:g} kHz"
            for rate, count in facts["sample_rates"].items()
        )
        size = f"{facts['utterances']:,} utterances, {facts['hours']:.2f} h"
        stdout.print(f"  {split:10} {size}, {facts['speakers']} speakers ({rates})")
        for line in shown(facts):
            stdout.print(f"  {'':10} {flat(line)}", markup=False)
    stdout.print(f"  duplicates and leaks: by {COMPARED[report.compared]}")
    kinds = [finding.severity for finding in report.findings]
    counts = ", ".join(f"{kinds.count(kind)} kinds of {kind}" for kind in COLOURS if kind in kinds)
    stdout.print(f"  found: {counts or 'nothing'}")
    for finding in report.findings:
        severity = (f"  {finding.severity:8} ", COLOURS[finding.severity])
        stdout.print(Text.assemble(severity, flat(str(finding))))


Source = Annotated[str, typer.Argument(metavar="CORPUS", help="A prepared corpus.")]


class By(StrEnum):
    """Where long recordings are cut."""

    SILENCE = "silence"
    WINDOWS = "windows"


@app.command(rich_help_panel=CORPORA)
def segment(
    corpus: Source,
    *,
    out: Out,
    max_seconds: Annotated[float, typer.Option(help="Longest segment, in seconds.")] = 30.0,
    min_seconds: Annotated[
        float,
        typer.Option(help="Shortest segment, in seconds; shorter ones are left out and counted."),
    ] = 2.0,
    by: Annotated[
        By,
        typer.Option(
            help="Where to cut: at the quietest 0.2 s ('silence'), or into the fewest segments of "
            "equal length ('windows')."
        ),
    ] = By.SILENCE,
) -> None:
    """Cut long recordings into segments for pretraining, without changing their audio files.

    Segments have no text: where the words of a recording's transcript lie is unknown.

    Example: mt4ssl-bench segment corpora/podcasts --out corpora/podcasts_30s
    """
    from mt4ssl_bench.corpora.segment import segment_corpus
    from mt4ssl_bench.data.corpus import Corpus

    made = segment_corpus(
        Corpus.open(corpus), out, max_seconds=max_seconds, min_seconds=min_seconds, by=by.value
    )
    show_corpus(made)
    for key, value in made.info.notes.items():
        if isinstance(value, int):
            typer.echo(f"  {key}: {value}")


@app.command(rich_help_panel=CORPORA)
def shard(
    corpus: Source,
    *,
    out: Out,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label store ('mt4ssl-bench kmeans') to write into the shards."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to write; may be repeated. Default: all.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Number of utterances per shard.")] = 200,
) -> None:
    """Write a corpus as Lhotse Shar, for object stores and network disks.

    Shar is tar files of --size utterances each. The folder is a corpus: data.corpus takes its path,
    or its URL (http, or any that Lhotse opens). Rerun the same command to resume.

    Example: mt4ssl-bench shard corpora/librispeech --split train --split valid --out /data/shards
    """
    from mt4ssl_bench.corpora.shard import shard_corpus
    from mt4ssl_bench.data.corpus import Corpus

    opened, store = Corpus.open(corpus), None
    if labels is not None:
        from mt4ssl_bench.data.label_store import LabelStore

        store = LabelStore(labels)
        if store.info.digest != opened.info.digest:
            LOGGER.warning(
                "%s: not made only from %s; train on all corpora that it was made from",
                labels,
                corpus,
            )
    show_corpus(shard_corpus(opened, out, splits=split or (), size=size, labels=store))
