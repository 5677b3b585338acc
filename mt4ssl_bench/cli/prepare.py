"""Commands of prepare for published corpora and for audio of your own."""

from enum import StrEnum
from functools import partial as bind
from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.cli.options import (
    Download,
    From,
    LexiconFiles,
    Licence,
    Mirror,
    Name,
    Out,
    Partial,
    Shards,
    finish,
)
from mt4ssl_bench.console import stdout

app = typer.Typer(
    no_args_is_help=True,
    help="Make a corpus: one that is published, by its name, or audio of your own. 'list corpora' "
    "says more of each.",
)


class Amount(StrEnum):
    """Libri-light's labelled sets."""

    MIN10 = "10min"
    H1 = "1h"
    H10 = "10h"


@app.command("librispeech")
def prepare_librispeech(
    *,
    out: Out,
    source: From = None,
    download: Download = False,
    train: Annotated[
        str, typer.Option(help="Parts for training, by commas; 960 is all three.")
    ] = "train-clean-100",
    valid: Annotated[str, typer.Option(help="Parts for validation.")] = "dev-clean",
    test: Annotated[str, typer.Option(help="Parts for the test.")] = "test-clean",
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    mirror: Mirror = "",
    shards: Shards = None,
) -> None:
    """LibriSpeech: train-clean-100, dev-clean and test-clean are SUPERB's.

    Other dev and test parts keep their names.

    SUPERB's phonemes come from its lexicon files: name them with --lexicon. Without, CMUdict gives
    them.

    Example: mt4ssl-bench prepare librispeech --download --out corpora/librispeech

    Example: mt4ssl-bench prepare librispeech --from LibriSpeech --train 960 --out corpora/ls960
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.librispeech import LIBRISPEECH_PARTS, librispeech

    parts: dict[str, list[str]] = {
        "train": [p for p in LIBRISPEECH_PARTS if p.startswith("train")]
        if train == "960"
        else _names(train),
        "valid": _names(valid),
        "test": _names(test),
    }
    wanted = [part for named in parts.values() for part in named]
    read = bind(librispeech, train=parts["train"], valid=parts["valid"], test=parts["test"])
    notes = {role: ", ".join(named) for role, named in parts.items()}
    finish(
        prepare_published(
            "librispeech",
            out,
            read,
            source=source,
            download=wanted if download else None,
            mirror=mirror,
            partial=partial,
            lexicon=lexicon or (),
            notes=notes,
        ),
        shards,
    )


@app.command("librilight")
def prepare_librilight(
    *,
    out: Out,
    source: From = None,
    download: Download = False,
    subset: Annotated[str, typer.Option(help="small, medium or large.")] = "small",
    labelled: Annotated[
        Amount | None, typer.Option(help="The set with transcripts, instead of a subset.")
    ] = None,
    librispeech: Annotated[
        Path | None,
        typer.Option(help="LibriSpeech's folder, for valid (dev-clean) and test (test-clean)."),
    ] = None,
    lexicon: LexiconFiles = None,
    partial: Partial = False,
    mirror: Mirror = "",
    shards: Shards = None,
) -> None:
    """Libri-light: a subset without transcripts, or the 10 min, 1 h and 10 h sets for fine-tuning.

    The subsets' recordings are up to an hour long: 'mt4ssl-bench segment' cuts them for
    pretraining.

    Example: mt4ssl-bench prepare librilight --from librilight --subset small --out
    corpora/librilight_small

    Example: mt4ssl-bench prepare librilight --labelled 10h --download --librispeech LibriSpeech
    --out corpora/ll10h
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.librilight import librilight, librilight_labelled

    if labelled:
        read = bind(librilight_labelled, amount=labelled.value, librispeech_folder=librispeech)
    else:
        read = bind(librilight, subset=subset)
    parts = ["labelled" if labelled else subset]
    finish(
        prepare_published(
            "librilight",
            out,
            read,
            source=source,
            download=parts if download else None,
            mirror=mirror,
            partial=partial,
            lexicon=lexicon or (),
            notes={"part": labelled or subset},
        ),
        shards,
    )


@app.command("voxceleb1")
def prepare_voxceleb1(
    *,
    out: Out,
    source: From = None,
    split_file: Annotated[
        Path | None, typer.Option(help="iden_split.txt; default: beside wav/.")
    ] = None,
    partial: Partial = False,
    shards: Shards = None,
) -> None:
    """VoxCeleb1 for speaker identification, by its official split (iden_split.txt).

    Example: mt4ssl-bench prepare voxceleb1 --from VoxCeleb1 --out corpora/voxceleb1
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.voxceleb1 import voxceleb1

    read = bind(voxceleb1, split_file=split_file)
    finish(prepare_published("voxceleb1", out, read, source=source, partial=partial), shards)


@app.command("speechcommands")
def prepare_speechcommands(
    *,
    out: Out,
    source: From = None,
    download: Download = False,
    partial: Partial = False,
    mirror: Mirror = "",
    shards: Shards = None,
) -> None:
    """Speech Commands 0.02: single words, by its own validation and testing lists.

    Example: mt4ssl-bench prepare speechcommands --download --out corpora/speechcommands
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.speechcommands import speechcommands

    parts = ["v0.02"] if download else None
    finish(
        prepare_published(
            "speechcommands",
            out,
            speechcommands,
            source=source,
            download=parts,
            mirror=mirror,
            partial=partial,
        ),
        shards,
    )


@app.command("timit")
def prepare_timit(
    *, out: Out, source: From = None, partial: Partial = False, shards: Shards = None
) -> None:
    """TIMIT with its own phones folded to 39.

    The usual 50 validation speakers, the core test's 24, no SA sentences.

    Example: mt4ssl-bench prepare timit --from TIMIT --out corpora/timit
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.timit import timit

    notes = {
        "left_out": "SA sentences; test speakers outside the 50 for validation and the core test's "
        "24"
    }
    phones = "TIMIT's labels, 39 phones"
    finish(
        prepare_published(
            "timit", out, timit, source=source, partial=partial, phones_from=phones, notes=notes
        ),
        shards,
    )


@app.command("speechocean762")
def prepare_speechocean762(
    *,
    out: Out,
    source: From = None,
    download: Download = False,
    partial: Partial = False,
    mirror: Mirror = "",
    shards: Shards = None,
) -> None:
    """speechocean762: English by learners, phones by annotators; free, 6 hours.

    Example: mt4ssl-bench prepare speechocean762 --download --out corpora/speechocean762
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.speechocean762 import speechocean762

    finish(
        prepare_published(
            "speechocean762",
            out,
            speechocean762,
            source=source,
            download=["speechocean762"] if download else None,
            mirror=mirror,
            partial=partial,
            phones_from="its annotators",
        ),
        shards,
    )


@app.command("fsdd")
def prepare_fsdd(
    *,
    out: Out,
    source: From = None,
    download: Download = False,
    partial: Partial = False,
    mirror: Mirror = "",
    shards: Shards = None,
) -> None:
    """Free Spoken Digit Dataset: 3,000 English digits by six speakers.

    The smallest real corpus here.

    Example: mt4ssl-bench prepare fsdd --download --out corpora/fsdd
    """
    from mt4ssl_bench.corpora.source import prepare_published
    from mt4ssl_bench.corpora.sources.fsdd import fsdd

    parts = ["fsdd"] if download else None
    finish(
        prepare_published(
            "fsdd", out, fsdd, source=source, download=parts, mirror=mirror, partial=partial
        ),
        shards,
    )


@app.command("table")
def prepare_table(
    manifest: Annotated[
        Path,
        typer.Argument(help="TSV: id, path and any of speaker, language, text, phones, split, ..."),
    ],
    *,
    out: Out,
    name: Name = "",
    licence: Licence = "unknown",
    lexicon: LexiconFiles = None,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Leave out and count rows with an empty cell, and files that are missing or "
            "unreadable.",
        ),
    ] = False,
    shards: Shards = None,
) -> None:
    """Make a corpus from a TSV with a header; missing columns limit which tasks it serves.

    Columns: id, path (relative to the table), and any of duration_s, speaker, language, text,
    phones, split, sid_split. English texts without phones get CMUdict's, any language's
    --lexicon's; a table without split is split here. An empty cell is a gap and is refused; the
    text of an utterance in which nobody speaks is <silence>.

    Example: mt4ssl-bench prepare table my_corpus/manifest.tsv --out corpora/mine
    """
    from mt4ssl_bench.corpora.prepare import prepare_table as run

    corpus = run(manifest, out, name=name, licence=licence, lexicon=lexicon or (), partial=partial)
    finish(corpus, shards)


@app.command("folder")
def prepare_folder(
    folder: Annotated[Path, typer.Argument(help="Any tree of audio files.")],
    out: Out,
    name: Name = "",
    licence: Licence = "unknown",
    shards: Shards = None,
) -> None:
    """Make a corpus for pretraining from every audio file below a folder.

    Example: mt4ssl-bench prepare folder recordings/ --out corpora/recordings
    """
    from mt4ssl_bench.corpora.prepare import prepare_folder as run

    finish(run(folder, out, name=name, licence=licence), shards)


@app.command("demo")
def prepare_demo(out: Out, shards: Shards = None) -> None:
    """Make the demo corpus: 30 minutes of synthetic English speech with transcripts, phonemes and
    16 speakers.

    Needs the [demo] extra (eSpeak NG, GPL-3+). Scores on it check the code; they are not a speech
    benchmark.

    Example: mt4ssl-bench prepare demo --out corpora/demo
    """
    from mt4ssl_bench.corpora.prepare import prepare_demo as run

    finish(run(out), shards)


def print_catalogue() -> None:
    """Print every corpus that 'prepare' knows by name: hours, licence, tasks."""
    from mt4ssl_bench.corpora.source import CATALOGUE

    stdout.print("corpora (prepare NAME --help)", style="bold")
    for name, entry in CATALOGUE.items():
        stdout.print(f"  {name:16} {entry.about}")
        facts = f"{entry.hours} h; {entry.licence}; {entry.tasks}" if entry.hours else entry.tasks
        stdout.print(f"  {'':16} {facts}", style="dim")


def _names(parts: str) -> list[str]:
    return [part.strip() for part in parts.split(",") if part.strip()]
