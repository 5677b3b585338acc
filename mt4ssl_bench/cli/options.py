"""Options that several commands share, help panels, and how a corpus is shown."""

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mt4ssl_bench.console import stdout

if TYPE_CHECKING:
    from mt4ssl_bench.data.corpus import Corpus
    from mt4ssl_bench.data.label_store import LabelStore

# panels of --help
CORPORA, PRETRAINING, EVALUATION = "Corpora", "Pretraining", "Evaluation"
RESULTS, MODELS = "Results", "Models"

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Name = Annotated[
    str, typer.Option(help="Name of the corpus in tables. Default: the name of its folder.")
]
Licence = Annotated[str, typer.Option(help="Licence of the corpus, recorded in corpus.json.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Folder of the original corpus; with --download, the folder to download it to "
        "(default: <out>/source).",
    ),
]
FromOnly = Annotated[Path | None, typer.Option("--from", help="Folder of the original corpus.")]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Download the corpus first; an interrupted download is resumed."
    ),
]
Mirror = Annotated[
    str, typer.Option(help="Download from this address, which must hold the same archives.")
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Leave out and count files that are missing or unreadable, and utterances without a "
        "text, phones or speaker that others of their split have; of a table, rows with an empty "
        "cell.",
    ),
]
LexiconFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--lexicon",
        help="File with a word and its phones in each line, for any language; may be repeated. "
        "Default: CMUdict for English.",
    ),
]


def _free(shards: Path | None) -> Path | None:
    """Refuse at once what would be refused when the corpus is made."""
    if shards:
        from mt4ssl_bench.corpora.shard import check_free

        check_free(shards)
    return shards


Shards = Annotated[
    Path | None,
    typer.Option(
        "--shards",
        help="Also write it here as Lhotse Shar, as 'mt4ssl-bench shard' does.",
        callback=_free,
    ),
]


def write_shards(corpus: "Corpus", shards: Path | None, labels: "LabelStore | None" = None) -> None:
    """Write a prepared corpus as shards where --shards says."""
    if shards:
        from mt4ssl_bench.corpora.shard import shard_corpus

        show_corpus(shard_corpus(corpus, shards, labels=labels))


def show_corpus(corpus: "Corpus") -> None:
    """Print what a prepared corpus holds."""
    from mt4ssl_bench.corpora.exclusions import left_out

    info = corpus.info
    stdout.print(f"{corpus.root}: {info.name} ({info.digest})")
    for name, split in sorted(info.splits.items()):
        stdout.print(
            f"  {name:10} {split.utterances} utterances, {split.hours * 60:.1f} min, "
            f"{split.speakers} speakers"
        )
    stdout.print(f"  fields: {', '.join(info.fields) or 'audio only'}")
    if "lexicon" in info.notes:
        words = info.notes["lexicon"]
        stdout.print(
            f"  phones from {info.phones_from}: {words['found']} words found, 0 guessed, "
            f"{words['missing']} missing"
        )
    for line in left_out(info.notes):
        stdout.print(f"  left out: {line}", markup=False)
    if "check" in info.notes:
        kinds = ", ".join(f"{kind} {count}" for kind, count in info.notes["check"].items())
        stdout.print(f"  check: {kinds}")
        stdout.print(f"  next: mt4ssl-bench check {shlex.quote(str(corpus.root))}")


def print_section(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Print names with a text about each, which a terminal shows wrapped beside its name."""
    from mt4ssl_bench.results.grid import Heading, grid, to_rich

    headings = [Heading("", "word", key=True), Heading("", "text")]
    stdout.show(to_rich([grid(title, headings, list(lines))]))


SuiteName = Annotated[
    str, typer.Option("--suite", help="A suite ('mt4ssl-bench list'), or the path of its file.")
]
WORKERS = (
    "Processes on this machine that share the work and its CPU threads; torchrun starts them on "
    "several."
)
Workers = Annotated[int, typer.Option(min=1, help=WORKERS)]
Device = Annotated[
    str,
    typer.Option(help="Torch device, or 'auto' for the first available of cuda, mps and cpu."),
]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Keys of the recipe to change, as fit.steps=100."
    ),
]


def in_workers(count: int | None, pay: Callable[[], int] = lambda: 1) -> None:
    """Run this command in several processes, and exit, unless it is in one of them already.

    Args:
        count: How many; None: as many as pay.
        pay: Returns how many pay.
    """
    from mt4ssl_bench.training.workers import run_workers, under_launcher

    processes = 1 if under_launcher() else count or pay()
    if processes > 1:
        raise typer.Exit(run_workers(processes, sys.argv[1:]))
