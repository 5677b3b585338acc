"""Commands of pretraining: pretrain, kmeans."""

from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.cli.options import PRETRAINING, Device, Keys, Out, Workers, in_workers
from mt4ssl_bench.console import stdout
from mt4ssl_bench.errors import INTERRUPTED

app = typer.Typer()


@app.command(rich_help_panel=PRETRAINING)
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name ('mt4ssl-bench list') or a .yaml file.")
    ],
    keys: Keys = None,
    *,
    out: Out,
    device: Device = "auto",
) -> None:
    """Pretrain a model; the same command continues an interrupted run.

    Missing labels are created. Ctrl-C saves and stops, with exit code 130. Several processes:

    torchrun --nproc-per-node 8 -m mt4ssl_bench pretrain mt4ssl_base fit.accumulate=2
    data.corpus=corpora/mine --out runs/base

    Example: mt4ssl-bench pretrain mt4ssl_tiny data.corpus=corpora/mine --out runs/first
    """
    from mt4ssl_bench.upstream.pretrain import pretrain as run

    report = run(recipe, *(keys or []), out=out, device=device)
    if not report.finished:
        raise typer.Exit(INTERRUPTED)
    last = report.validations[-1] if report.validations else {}
    losses = [f"{key} {value:.3f}" for key, value in last.items() if key != "step"][:3]
    stdout.print(f"{out}: {', '.join([f'{report.steps} updates', *losses])}")
    stdout.print(
        f"next: mt4ssl-bench evaluate {out} fbank --task phoneme --corpus ... --out results"
    )


@app.command(rich_help_panel=PRETRAINING)
def kmeans(
    recipe: Annotated[
        str, typer.Argument(help="A pretraining recipe, of which targets.offline is used.")
    ],
    keys: Keys = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Label store (default: inside the first corpus).")
    ] = None,
    alignment: Annotated[
        Path | None,
        typer.Option(
            help="Time-aligned phones: a CTM file, or a folder of TextGrid files named by "
            "utterance id. Adds phone purity, cluster purity and PNMI to the report."
        ),
    ] = None,
    tier: Annotated[
        str, typer.Option(help="Name of the interval tier that holds the phones in TextGrid files.")
    ] = "phones",
    device: Device = "auto",
    workers: Workers = 1,
) -> None:
    """Create k-means labels for the offline targets, from MFCC or a layer of an upstream.

    Prints inertia, used clusters and perplexity. The same command continues an interrupted one. The
    processes of --workers or torchrun share the work; labels do not depend on their number.

    Examples: mt4ssl-bench kmeans mt4ssl_tiny data.corpus=corpora/mine

    mt4ssl-bench kmeans mt4ssl_tiny data.corpus=corpora/mine targets.offline.features=runs/first
    targets.offline.layer=3 --out labels/second
    """
    from mt4ssl_bench.upstream.offline_labels import kmeans as run

    in_workers(workers)

    for key, value in run(
        recipe, *(keys or []), out=out, alignment=alignment, tier=tier, device=device
    ).items():
        stdout.print(f"{key}: {value}")
