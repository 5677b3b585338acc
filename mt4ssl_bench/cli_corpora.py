"""The command line's corpora: prepare; nothing heavy is imported before a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.console import stdout

prepare = typer.Typer(
    no_args_is_help=True, help="Make a corpus from audio: a table of utterances, a folder, or the demo."
)

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Name = Annotated[str, typer.Option(help="The corpus's name in tables; default: the folder's.")]
Licence = Annotated[str, typer.Option(help="Kept with the corpus.")]


@prepare.command("table")
def prepare_table(
    manifest: Annotated[
        Path, typer.Argument(help="TSV: id, path and any of speaker, language, text, phones, split, ...")
    ],
    out: Out,
    name: Name = "",
    licence: Licence = "unknown",
) -> None:
    """Make a corpus from a TSV with a header; missing columns limit which tasks it serves.

    Columns: id, path (relative to the table), and any of duration_s, speaker, language, text, phones, split, sid_split.
    English texts without phones get CMUdict's; a table without split is split here.

    Example: mt4ssl-bench prepare table my_corpus/manifest.tsv --out corpora/mine
    """
    from mt4ssl_bench.prepare import prepare_table as run

    _show_corpus(run(manifest, out, name=name, licence=licence))


@prepare.command("folder")
def prepare_folder(
    folder: Annotated[Path, typer.Argument(help="Any tree of audio files.")],
    out: Out,
    name: Name = "",
    licence: Licence = "unknown",
) -> None:
    """Make a corpus for pretraining from every audio file below a folder.

    Example: mt4ssl-bench prepare folder recordings/ --out corpora/recordings
    """
    from mt4ssl_bench.prepare import prepare_folder as run

    _show_corpus(run(folder, out, name=name, licence=licence))


@prepare.command("demo")
def prepare_demo(out: Out) -> None:
    """Make the demo corpus: 30 minutes of synthetic English speech with transcripts, phonemes and 16 speakers.

    Needs the [demo] extra (eSpeak NG, GPL-3+). Scores on it check the code; they are not a speech benchmark.

    Example: mt4ssl-bench prepare demo --out corpora/demo
    """
    from mt4ssl_bench.prepare import prepare_demo as run

    _show_corpus(run(out))


def _show_corpus(corpus: object) -> None:
    from mt4ssl_bench.corpus import Corpus

    assert isinstance(corpus, Corpus)
    info = corpus.info
    stdout.print(f"{corpus.root}: {info.name} ({info.digest})", highlight=False)
    for name, split in sorted(info.splits.items()):
        stdout.print(
            f"  {name:10} {split.utterances} utterances, {split.hours * 60:.1f} min, {split.speakers} speakers",
            highlight=False,
        )
    stdout.print(f"  fields: {', '.join(info.fields) or 'audio only'}", highlight=False)
