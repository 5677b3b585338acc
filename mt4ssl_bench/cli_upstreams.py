"""The command line's upstreams: check-upstream and s3prl; nothing heavy is imported before a command runs."""

import json
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.console import stderr, stdout
from mt4ssl_bench.text import flat

app = typer.Typer()

STYLES = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
}


@app.command("check-upstream")
def check_upstream(
    name: Annotated[
        str, typer.Argument(help="Any upstream: a run folder, an s3prl name, file.py:Class, ...")
    ],
    *,
    device: Annotated[str, typer.Option(help="auto (cuda, mps, cpu), or a torch device.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check by running it that an upstream keeps the protocol, and measure what it costs; exit code 1 when it does not.

    Example: mt4ssl-bench check-upstream my_model.py:MyModel
    """
    from dataclasses import asdict

    from mt4ssl_bench.device import pick_device
    from mt4ssl_bench.features import load_upstream
    from mt4ssl_bench.protocol import check, cost
    from mt4ssl_bench.user_upstream import build

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
            f"{upstream.num_layers} hidden states of {upstream.dim}, one frame per {upstream.stride} samples, "
            f"{spent.parameters:,} parameters, {spent.macs_per_second / 1e9:.3g} G multiply-accumulates per second of "
            f"audio, {spent.audio_per_second:.0f} s of audio per second on {spent.device}"
        )
    for one in broken:
        head = (f"{flat(upstream.name)} breaks the protocol: ", "bold red")
        fault = flat(f"{one.name}: expected {one.expected}, got {one.got}")
        stderr.print(Text.assemble(head, fault))
    if broken:
        raise typer.Exit(1)


@app.command("s3prl", context_settings={"ignore_unknown_options": True})
def s3prl(
    arguments: Annotated[
        list[str], typer.Argument(metavar="-- ARGUMENTS...", help="s3prl's own command line.")
    ],
) -> None:
    """Run s3prl's own programs with our upstreams in their hub: a problem (SuperbPR, ...), or else run_downstream.

    Needs the \\[s3prl] extra.

    Example: mt4ssl-bench s3prl -- -m train -u mt4ssl_local -k runs/first/checkpoint.pt -d phone_linear -c config.yaml -n first
    """  # noqa: E501 - the example must stay one line
    from mt4ssl_bench.s3prl_programs import run
    from mt4ssl_bench.upstream.expert import register

    register()
    run(arguments)
