"""Commands of models: convert, export, check-upstream, s3prl, list."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mt4ssl_bench.cli import prepare
from mt4ssl_bench.cli.options import MODELS, Device, print_section
from mt4ssl_bench.console import stderr, stdout
from mt4ssl_bench.text import flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mt4ssl_bench.encoders.conformance import Check, Cost
    from mt4ssl_bench.encoders.protocol import Upstream

app = typer.Typer()


class Target(StrEnum):
    """The toolkit for which a model is exported."""

    HF = "hf"
    S3PRL = "s3prl"


@app.command(rich_help_panel=MODELS)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A fairseq .pt file, a Hugging Face folder, or hf:<id, id@revision or folder>."
        ),
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Recipe keys that are not stored in the file."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
) -> None:
    """Convert a checkpoint of official MT4SSL, fairseq data2vec or Hugging Face Data2VecAudio.

    Only tensors and plain settings are read: no code in the file is run. The run folder is an
    upstream for evaluate, initial weights for pretrain (init=<folder>), and can be exported.

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
        typer.Option(help="hf: a folder for transformers; s3prl: one file with only the encoder."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder (hf), or .pt or .safetensors file (s3prl) to write."),
    ],
    results: Annotated[
        Path | None,
        typer.Option(help="Results folder: its records of this model go into the model card (hf)."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Write weights as fp16, half the size (s3prl).")
    ] = False,
) -> None:
    """Export a model to another toolkit, without heads, teacher and optimizer.

    Examples: mt4ssl-bench export runs/first --to hf --out share/first --results results

    mt4ssl-bench export runs/first --to s3prl --out share/first.pt
    """
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.upstream.checkpoints.export import to_huggingface, to_s3prl

    if to is Target.S3PRL and results is not None:
        raise ConfigError(
            "--results: is for the model card, which only --to hf writes; drop one of the two"
        )
    if to is Target.HF and half:
        raise ConfigError(
            "--half: is for one file, which only --to s3prl writes; drop one of the two"
        )
    s3prl = to is Target.S3PRL
    mark = to_s3prl(run, out, half=half) if s3prl else to_huggingface(run, out, results)
    stdout.print(f"{out}: fingerprint {mark}")


@app.command("check-upstream", rich_help_panel=MODELS)
def check_upstream(
    name: Annotated[
        str,
        typer.Argument(
            help="Run folder, s3prl name, hf:<folder or id>, random:<recipe> or file.py:Class."
        ),
    ],
    *,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test whether an upstream conforms to the Upstream protocol, and measure its cost.

    Runs the model on noise and silence: attributes, shapes, frame counts, finite values,
    determinism, padding, gradients. Stops at the first failure. Exit code 1 if a check fails.

    Example: mt4ssl-bench check-upstream my_model.py:MyModel
    """
    from dataclasses import asdict

    from mt4ssl_bench.device import pick_device
    from mt4ssl_bench.encoders.conformance import check, cost
    from mt4ssl_bench.encoders.kinds.file import build
    from mt4ssl_bench.encoders.load import load_upstream

    where = pick_device(device)
    in_file = name.partition(":")[0].endswith(".py")  # load_upstream() would raise what fails
    upstream = build(name, device=where) if in_file else load_upstream(name, device=where)
    checks = list(check(upstream))
    failed = [result for result in checks if result.outcome == "failed"]
    spent = None if failed else cost(upstream)
    if as_json:
        shape = {
            key: getattr(upstream, key)
            for key in ("name", "num_layers", "dim", "stride", "fingerprint")
        }
        payload = {
            **shape,
            "checks": [asdict(result) for result in checks],
            "cost": asdict(spent) if spent else None,
        }
        sys.stdout.write(json.dumps(payload, indent=2) + "\n")
    else:
        _print_checks(upstream, checks, spent)
    for result in failed:
        head = (f"{flat(upstream.name)} breaks the protocol: ", "bold red")
        fault = flat(f"{result.name}: expected {result.expected}, got {result.got}")
        stderr.print(Text.assemble(head, fault))
    if failed:
        raise typer.Exit(1)


def _print_checks(upstream: "Upstream", checks: "Sequence[Check]", spent: "Cost | None") -> None:
    from mt4ssl_bench.results.grid import Heading, grid, to_rich

    headings = [
        Heading("check", "word", key=True),
        Heading("", "word", key=True),
        Heading("expected", "text"),
        Heading("got", "text"),
    ]
    rows = [(each.name, each.outcome, each.expected, each.got) for each in checks]
    stdout.show(to_rich([grid(upstream.name, headings, rows)]))
    if spent:
        stdout.print(
            f"{upstream.num_layers} hidden states of {upstream.dim}, one frame per "
            f"{upstream.stride} samples, {spent.parameters:,} parameters, "
            f"{spent.macs_per_second / 1e9:.3g} G multiply-accumulates per second of audio, "
            f"{spent.audio_per_second:.0f} s of audio per second on {spent.device}"
        )


@app.command("s3prl", rich_help_panel=MODELS, context_settings={"ignore_unknown_options": True})
def s3prl(
    arguments: Annotated[
        list[str], typer.Argument(metavar="-- ARGUMENTS...", help="s3prl's own command line.")
    ],
) -> None:
    r"""Run s3prl's own programs with the MT4SSL upstreams in its hub.

    The first argument is a problem (SuperbPR, ...), or the arguments are run_downstream's.

    Needs the extra \[s3prl].

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
        typer.Argument(
            help="recipes, tasks, suites, corpora, upstreams, targets or metrics. Default: all, "
            "without s3prl's names."
        ),
    ] = "",
) -> None:
    """List the names that other commands take, those of installed plug-ins too.

    Example: mt4ssl-bench list upstreams
    """
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.registry import hint

    sections: dict[str, Callable[[], None]] = {
        "recipes": partial(_print_recipes, "pretraining recipes", of_tasks=False),
        "tasks": partial(_print_recipes, "task recipes", of_tasks=True),
        "suites": _print_suites,
        "corpora": prepare.print_catalogue,
        "upstreams": partial(_print_upstreams, all_names=what == "upstreams"),
        "targets": _print_targets,
        "metrics": _print_metrics,
    }
    if what not in {"", *sections}:
        raise ConfigError(f"list: nothing called '{what}'; {hint(what, sections)}")
    wanted = [section for name, section in sections.items() if what in {"", name}]
    for number, section in enumerate(wanted):
        if number:
            stdout.print()
        section()


def _print_recipes(title: str, *, of_tasks: bool) -> None:
    from mt4ssl_bench.config import read_recipe, recipe_names

    recipes = {name: read_recipe(name) for name in recipe_names()}
    own = {name: values for name, values in recipes.items() if ("task" in values) == of_tasks}
    print_section(title, ((name, str(values.get("about", ""))) for name, values in own.items()))


def _print_suites() -> None:
    from mt4ssl_bench.config import suite_files
    from mt4ssl_bench.results.suite import read_suite

    print_section("suites", ((name, read_suite(name).about) for name in suite_files()))


def _print_targets() -> None:
    from mt4ssl_bench.upstream.targets import TARGETS

    print_section(
        "target extractors (targets.<name>.<key>)",
        ((name, _first_sentence(kind)) for name, kind in TARGETS.items()),
    )


def _print_metrics() -> None:
    from mt4ssl_bench.results.metrics import METRICS

    lines = {}
    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        lines[name] = f"{metric.title or name.upper()}, {metric.unit}, {better} is better"
    print_section("metrics", lines.items())


def _first_sentence(kind: type) -> str:
    """Return the first sentence of a class's docstring."""
    return (kind.__doc__ or "").split("\n\n")[0].strip()


def _print_upstreams(*, all_names: bool) -> None:
    """Print how each kind of encoder is written, and with `all_names` the names that it has."""
    from mt4ssl_bench.encoders.kind import ENCODERS

    kinds = dict(ENCODERS.items())
    print_section("upstreams", ((kind.written, kind.about) for kind in kinds.values()))
    for name, kind in kinds.items() if all_names else ():
        if kind.names is not None:
            print_section(f"{name} names", [("", ", ".join(kind.names()))])
