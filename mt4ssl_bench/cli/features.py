"""Commands of features: extract, store list, store clear."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from mt4ssl_bench.cli.options import EVALUATION, Device, Workers, in_workers
from mt4ssl_bench.console import stdout

app = typer.Typer()
store = typer.Typer(no_args_is_help=True, help="List or clear the features that evaluations store.")
app.add_typer(store, name="store", rich_help_panel=EVALUATION)

Store = Annotated[
    Path, typer.Argument(help="Feature store: evaluate's --store, by default <out>/store.")
]
STORE = Path("results/store")


class Dtype(StrEnum):
    """Floating-point type of written features."""

    FP16 = "fp16"
    FP32 = "fp32"


@app.command(rich_help_panel=EVALUATION)
def extract(
    upstream: Annotated[
        str, typer.Argument(help="Run folder, s3prl name, hf:<folder or id>, file.py:Class, ...")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    corpus: Annotated[Path | None, typer.Option(help="A prepared corpus.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split of the corpus; may be repeated. Default: all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Tree of audio files, instead of a corpus.")
    ] = None,
    layer: Annotated[
        str, typer.Option(help="'all', or a hidden state: 0 is the encoder's input, -1 the last.")
    ] = "all",
    dtype: Annotated[Dtype, typer.Option(help="Floating-point type of features.")] = Dtype.FP32,
    units: Annotated[
        Path | None, typer.Option(help="Label store: write its units instead of features.")
    ] = None,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Write a run of one unit once.")
    ] = False,
    device: Device = "auto",
    workers: Workers = 1,
) -> None:
    """Extract an upstream's hidden states, or k-means units, of a corpus or a folder.

    Hidden states are written to safetensors files, a tensor (layers, frames, dimension) for each
    utterance id, or (frames, dimension) with --layer; index.json maps ids to files. Units are
    written to units.txt, a line "id unit unit ..." for each utterance. Rerun the same command to
    resume. The processes of --workers or torchrun share the files of hidden states.

    Examples: mt4ssl-bench extract runs/first --folder recordings --layer 3 --dtype fp16 --out
    features

    mt4ssl-bench extract runs/first --corpus corpora/mine --units labels/second --collapse --out
    units
    """
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.features.extract import extract as run

    if layer != "all" and not layer.lstrip("-").isdecimal():
        raise ConfigError(f"--layer {layer}: expected a number or all")
    in_workers(workers)
    written = run(
        upstream,
        out,
        corpus=corpus,
        splits=split or [],
        folder=folder,
        layer=None if layer == "all" else int(layer),
        dtype=dtype.value,
        units=units,
        collapse=collapse,
        device=device,
    )
    stdout.print(str(written))


@store.command("list")
def list_entries(folder: Store = STORE) -> None:
    """List the entries of a feature store, the most recently used first.

    Example: mt4ssl-bench store list results/store
    """
    from mt4ssl_bench.features.store import entries
    from mt4ssl_bench.results.grid import Heading, grid, to_rich

    _need(folder)
    listed = sorted(entries(folder), key=lambda entry: -entry.used)
    headings = [
        Heading("upstream", "name", key=True),
        Heading("corpus", "name", key=True),
        Heading("split", "word"),
        Heading("features", "word"),
        *map(Heading, ("hours", "size", "last used")),
    ]
    rows = []
    for entry in listed:
        header = entry.header
        rows.append(
            (
                f"{header.upstream} ({header.fingerprint[:8]})",
                f"{header.corpus} ({header.digest[:8]})",
                header.split,
                f"{header.kind} {header.precision}" + ("" if entry.whole else ", unfinished"),
                f"{header.hours:.2f}",
                decimal(entry.bytes),
                f"{datetime.fromtimestamp(entry.used).astimezone():%Y-%m-%d}",
            )
        )
    stdout.show(to_rich([grid("", headings, rows)]))
    stdout.print(f"{len(listed)} entries, {decimal(sum(entry.bytes for entry in listed))}")


@store.command("clear")
def clear_entries(
    folder: Store = STORE,
    *,
    upstream: Annotated[
        str, typer.Option(help="Only entries of this upstream, by name or fingerprint.")
    ] = "",
    older_than: Annotated[
        float | None,
        typer.Option(min=0, help="Only entries that were not used for this many days."),
    ] = None,
) -> None:
    """Delete features from a store. Later evaluations recompute the features that they need.

    Entries that another process is writing are kept.

    Example: mt4ssl-bench store clear results/store --older-than 30
    """
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.features.store import clear, entries
    from mt4ssl_bench.registry import hint

    _need(folder)
    headers = [entry.header for entry in entries(folder)]
    known = {name for h in headers for name in (h.upstream, h.fingerprint, h.fingerprint[:8])}
    if upstream and upstream not in known:
        raise ConfigError(
            f"--upstream {upstream}: none of its features in {folder}; {hint(upstream, known)}"
        )
    gone = clear(folder, upstream=upstream, older_than=older_than)
    size = decimal(sum(entry.bytes for entry in gone))
    stdout.print(f"{folder}: removed {len(gone)} entries, {size}")


def _need(folder: Path) -> None:
    from mt4ssl_bench.errors import BenchError

    if not folder.is_dir():
        raise BenchError(
            f"{folder}: no such feature store; expected the folder of evaluate's --store, by "
            "default <out>/store"
        )
