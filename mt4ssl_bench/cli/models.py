"""Commands of models: convert, export, check-upstream, s3prl, list."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.cli import prepare
from mt4ssl_bench.cli.options import MODELS, Device
from mt4ssl_bench.console import stderr, stdout
from mt4ssl_bench.text import flat

app = typer.Typer()


class Target(StrEnum):
    """Whose tools an exported model is for."""

    HF = "hf"
    S3PRL = "s3prl"


@app.command(rich_help_panel=MODELS)
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
    """Turn someone else's checkpoint into a run folder: official MT4SSL, fairseq data2vec, Hugging
    Face Data2VecAudio.

    Only tensors and plain settings are read: no code in the file is run. The folder is an upstream
    for evaluate, weights for pretrain (init=<folder>), and can be exported.

    Example: mt4ssl-bench convert checkpoint_best.pt --out runs/official
    """
    from mt4ssl_bench.upstream.checkpoints.convert import convert as run

    made = run(source, out, keys or [])
    encoder, offline = made.config.encoder, made.config.targets.offline
    for note in made.notes:
        stderr.print(f"note: {note}")
    classes = f", {offline.clusters} classes" if "offline head" in made.parts else ""
    stdout.print(
        f"{out}: {made.kind}, {encoder.layers} layers of {encoder.dim}{classes}; "
        f"{', '.join(made.parts)}; fingerprint {made.fingerprint}"
    )
    stdout.print(f"next: mt4ssl-bench evaluate {out} ..., or pretrain ... init={out}")


@app.command(rich_help_panel=MODELS)
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
    from mt4ssl_bench.upstream.checkpoints.export import to_huggingface, to_s3prl

    if to is Target.S3PRL and results is not None:
        raise ConfigError("--results: goes into the model card, which only --to hf writes")
    mark = to_s3prl(run, out) if to is Target.S3PRL else to_huggingface(run, out, results)
    stdout.print(f"{out}: fingerprint {mark}")


STYLES = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
}


@app.command("check-upstream", rich_help_panel=MODELS)
def check_upstream(
    name: Annotated[
        str, typer.Argument(help="Any upstream: a run folder, an s3prl name, file.py:Class, ...")
    ],
    *,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check by running it that an upstream keeps the protocol, and measure what it costs.

    Exit code 1 when it does not.

    Example: mt4ssl-bench check-upstream my_model.py:MyModel
    """
    from dataclasses import asdict

    from mt4ssl_bench.device import pick_device
    from mt4ssl_bench.encoders.conformance import check, cost
    from mt4ssl_bench.encoders.load import load_upstream
    from mt4ssl_bench.encoders.user_file import build

    where = pick_device(device)
    mine = name.partition(":")[0].endswith(".py")
    upstream = build(name, device=where) if mine else load_upstream(name, device=where)
    found = list(check(upstream))
    broken = [one for one in found if one.outcome == "failed"]
    spent = None if broken else cost(upstream)
    if as_json:
        shape = {
            key: getattr(upstream, key)
            for key in ("name", "num_layers", "dim", "stride", "fingerprint")
        }
        payload = {
            **shape,
            "checks": [asdict(one) for one in found],
            "cost": asdict(spent) if spent else None,
        }
        sys.stdout.write(json.dumps(payload, indent=2) + "\n")
    else:
        title = Text(flat(upstream.name))
        table = Table("check", "", "expected", "got", title=title, title_justify="left")
        for one in found:
            outcome = Text(one.outcome, STYLES.get(one.outcome, ""))
            table.add_row(one.name, outcome, one.expected, one.got)
        stdout.print(table, soft_wrap=False)
    if spent and not as_json:
        stdout.print(
            f"{upstream.num_layers} hidden states of {upstream.dim}, one frame per "
            f"{upstream.stride} samples, {spent.parameters:,} parameters, "
            f"{spent.macs_per_second / 1e9:.3g} G multiply-accumulates per second of audio, "
            f"{spent.audio_per_second:.0f} s of audio per second on {spent.device}"
        )
    for one in broken:
        head = (f"{flat(upstream.name)} breaks the protocol: ", "bold red")
        fault = flat(f"{one.name}: expected {one.expected}, got {one.got}")
        stderr.print(Text.assemble(head, fault))
    if broken:
        raise typer.Exit(1)


@app.command("s3prl", rich_help_panel=MODELS, context_settings={"ignore_unknown_options": True})
def s3prl(
    arguments: Annotated[
        list[str], typer.Argument(metavar="-- ARGUMENTS...", help="s3prl's own command line.")
    ],
) -> None:
    """Run s3prl's own programs with our upstreams in their hub: a problem (SuperbPR, ...), or else
    run_downstream.

    Needs the \\[s3prl] extra.

    Example: mt4ssl-bench s3prl -- -m train -u mt4ssl_local -k runs/first/checkpoint.pt -d
    phone_linear -c config.yaml -n first
    """
    from mt4ssl_bench.encoders.s3prl_programs import run
    from mt4ssl_bench.upstream.expert import register

    register()
    run(arguments)


@app.command("list", rich_help_panel=MODELS)
def list_names(
    what: Annotated[
        str,
        typer.Argument(help="recipes, tasks, corpora, upstreams; default: all but s3prl's names."),
    ] = "",
) -> None:
    """Show the names that other commands take.

    Example: mt4ssl-bench list upstreams
    """
    from mt4ssl_bench.config import read_recipe, recipe_names
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.registry import hint

    if what not in {"", "recipes", "tasks", "corpora", "upstreams"}:
        raise ConfigError(
            f"list: nothing called '{what}'; "
            f"{hint(what, ['recipes', 'tasks', 'corpora', 'upstreams'])}"
        )
    found = {name: read_recipe(name) for name in recipe_names()}
    for title, task in (("recipes", False), ("tasks", True)):
        if what in {"", title}:
            heading = "pretraining recipes" if title == "recipes" else "task recipes"
            stdout.print(heading, style="bold")
            for name, values in found.items():
                if ("task" in values) == task:
                    stdout.print(f"  {name:16} {values.get('about', '')}")
    if what in {"", "corpora"}:
        prepare.print_catalogue()
    if what in {"", "upstreams"}:
        _print_upstreams(all_names=what == "upstreams")


def _print_upstreams(*, all_names: bool) -> None:
    """Print how each kind of encoder is written, and with `all_names` the names that it has."""
    from mt4ssl_bench.encoders.kinds import ENCODERS

    stdout.print("upstreams", style="bold")
    kinds = dict(ENCODERS.items())
    width = max(len(kind.written) for kind in kinds.values())
    for kind in kinds.values():
        stdout.print(f"  {kind.written:{width}}  {kind.about}")
    for name, kind in kinds.items() if all_names else ():
        if kind.names is not None:
            stdout.print(f"{name} names", style="bold")
            stdout.print("  " + ", ".join(kind.names()))
