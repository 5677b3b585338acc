"""The command line's models: checkpoints in and out; nothing heavy is imported before a command runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mt4ssl_bench.console import stderr, stdout

app = typer.Typer()


class Target(StrEnum):
    """Whose tools an exported model is for."""

    HF = "hf"
    S3PRL = "s3prl"


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="A fairseq .pt file, a Hugging Face folder, or hf:<id or folder>.")
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys that the file cannot say."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
) -> None:
    """Turn someone else's checkpoint into a run folder: official MT4SSL, fairseq data2vec, Hugging Face Data2VecAudio.

    Only tensors and plain settings are read: no code in the file is run. The folder is an upstream for evaluate,
    weights for pretrain (init=<folder>), and can be exported.

    Example: mt4ssl-bench convert checkpoint_best.pt --out runs/official
    """
    from mt4ssl_bench.upstream.convert import convert as run

    made = run(source, out, keys or [])
    encoder, offline = made.config.encoder, made.config.targets.offline
    for note in made.notes:
        stderr.print(f"note: {note}")
    classes = f", {offline.clusters} classes" if "offline head" in made.parts else ""
    stdout.print(
        f"{out}: {made.kind}, {encoder.layers} layers of {encoder.dim}{classes}; {', '.join(made.parts)}; "
        f"fingerprint {made.fingerprint}"
    )
    stdout.print(f"next: mt4ssl-bench evaluate {out} ..., or pretrain ... init={out}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder or its checkpoint.pt.")],
    *,
    to: Annotated[
        Target,
        typer.Option(help="hf: a folder for transformers; s3prl: one .pt file, the encoder alone."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder (hf) or .pt file (s3prl) to write.")],
    results: Annotated[
        Path | None,
        typer.Option(help="Records of this model for the model card (hf); others are left out."),
    ] = None,
) -> None:
    """Write a model for other people's tools, without heads, teacher and optimiser.

    Examples: mt4ssl-bench export runs/first --to hf --out share/first --results results

    mt4ssl-bench export runs/first --to s3prl --out share/first.pt
    """
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.upstream.export import to_huggingface, to_s3prl

    if to is Target.S3PRL and results is not None:
        raise ConfigError("--results: goes into the model card, which only --to hf writes")
    mark = to_s3prl(run, out) if to is Target.S3PRL else to_huggingface(run, out, results)
    stdout.print(f"{out}: fingerprint {mark}")
