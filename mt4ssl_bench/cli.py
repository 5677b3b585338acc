"""The mt4ssl-bench command: thin commands over the jobs; nothing heavy is imported before a command runs."""

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mt4ssl_bench import (
    __version__,
    cli_check,
    cli_corpora,
    cli_exchange,
    cli_features,
    cli_models,
    cli_reshape,
    cli_results,
    cli_speech,
    cli_upstreams,
    threads,
)
from mt4ssl_bench.cli_results import Format, print_estimate, print_leaderboard, print_sweeps
from mt4ssl_bench.console import setup_logging, stderr, stdout
from mt4ssl_bench.errors import BenchError
from mt4ssl_bench.text import flat

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pretrain speech models with MT4SSL and evaluate any speech encoder with SUPERB's protocol.",
)
app.add_typer(cli_exchange.prepare, name="prepare")
app.add_typer(cli_reshape.app)
app.add_typer(cli_features.app)
app.add_typer(cli_models.app)
app.add_typer(cli_check.app)
app.add_typer(cli_results.app)
app.add_typer(cli_speech.app)
app.add_typer(cli_upstreams.app)

INTERRUPTED = 130  # the exit code after Ctrl-C

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Device = Annotated[str, typer.Option(help="auto (cuda, mps, cpu), or a torch device.")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys that differ now.")
]


def _version(*, wanted: bool) -> None:
    if wanted:
        stdout.print(__version__)
        raise typer.Exit


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback runs before a command is asked for
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """Set up the log."""
    setup_logging(verbose=verbose)


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name ('mt4ssl-bench list') or a .yaml file.")
    ],
    keys: Keys = None,
    *,
    out: Out,
    device: Device = "auto",
) -> None:
    """Pretrain a model; the same command again continues an interrupted run.

    Labels for the offline targets are made when they are missing. Ctrl-C saves and stops. Several processes:

    torchrun --nproc-per-node 8 -m mt4ssl_bench pretrain mt4ssl_base data.corpus=corpora/mine --out runs/base

    Example: mt4ssl-bench pretrain mt4ssl_tiny data.corpus=corpora/mine --out runs/first
    """
    from mt4ssl_bench.upstream.pretrain import pretrain as run

    report = run(recipe, *(keys or []), out=out, device=device)
    if not report.finished:
        raise typer.Exit(INTERRUPTED)
    last = report.validations[-1] if report.validations else {}
    found = ", ".join(f"{key} {value:.3f}" for key, value in last.items() if key != "step")
    stdout.print(f"{out}: {report.steps} updates{', ' + found if found else ''}")
    stdout.print(
        f"next: mt4ssl-bench evaluate {out} fbank --task phoneme --corpus ... --out results"
    )


@app.command()
def kmeans(
    recipe: Annotated[
        str, typer.Argument(help="A pretraining recipe; its targets.offline says how.")
    ],
    keys: Keys = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Label store; default: inside the first corpus.")
    ] = None,
    alignment: Annotated[
        Path | None,
        typer.Option(
            help="Time-aligned phones: a CTM file, or a folder of TextGrid files named by utterance "
            "id. Adds phone purity, cluster purity and PNMI to the report."
        ),
    ] = None,
    tier: Annotated[
        str, typer.Option(help="Name of the interval tier that holds the phones in TextGrid files.")
    ] = "phones",
    device: Device = "auto",
) -> None:
    """Make the offline targets' labels alone, from MFCC or from a layer of any upstream, and report on them.

    The same command again continues an interrupted one; under torchrun all processes share the work.

    Examples: mt4ssl-bench kmeans mt4ssl_tiny data.corpus=corpora/mine

    mt4ssl-bench kmeans mt4ssl_tiny data.corpus=corpora/mine targets.offline.features=runs/first targets.offline.layer=3 --out labels/second
    """  # noqa: E501 - the example must stay one line
    from mt4ssl_bench.upstream.kmeans import kmeans as run

    for key, value in run(
        recipe, *(keys or []), out=out, alignment=alignment, tier=tier, device=device
    ).items():
        stdout.print(f"{key}: {value}")


@app.command()
def evaluate(
    upstreams: Annotated[
        list[str],
        typer.Argument(
            metavar="UPSTREAM... [KEY=VALUE]...",
            help="Run folders, s3prl names, hf:<id or folder>, random:<recipe>.",
        ),
    ],
    *,
    corpus: Annotated[Path, typer.Option(help="A prepared corpus.")],
    task: Annotated[
        list[str], typer.Option(help="asr, phoneme, speaker, or a recipe of one; may be repeated.")
    ],
    out: Out = Path("results"),
    store: Annotated[
        Path | None, typer.Option(help="Where features are kept; default: <out>/store.")
    ] = None,
    device: Device = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only N utterances per split: never ranked.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, time and disk needed; compute nothing.")
    ] = False,
) -> None:
    """Evaluate upstreams on tasks and print the leaderboard; rows that have a record are not computed again.

    A task's name means SUPERB's full recipe on corpora of 50 hours and more, and its _tiny recipe below.

    Example: mt4ssl-bench evaluate fbank runs/first --task asr --task phoneme --corpus corpora/mine --out results
    """
    from mt4ssl_bench.downstream.evaluate import evaluate as run
    from mt4ssl_bench.errors import ConfigError
    from mt4ssl_bench.names import split_keys

    names, overrides = split_keys(upstreams)
    if not names:
        raise ConfigError("evaluate: name at least one upstream, for example fbank")
    where: dict[str, Any] = {
        "out": out,
        "overrides": overrides,
        "device": device,
        "store": store,
        "limit": limit,
    }
    if dry_run:
        print_estimate(names, task, corpus, **where)
        return
    outcome = run(names, task, corpus, **where)
    if outcome.results:
        print_sweeps(outcome.results)
        print_leaderboard(out, Format.TABLE)
    for failure in outcome.failures:
        stderr.print(f"failed: {failure}")
    if outcome.failures:
        raise typer.Exit(1)


@app.command("list")
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
            f"list: nothing called '{what}'; {hint(what, ['recipes', 'tasks', 'corpora', 'upstreams'])}"
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
        cli_corpora.print_catalogue()
    if what in {"", "upstreams"}:
        stdout.print("upstreams", style="bold")
        stdout.print("  <run folder>     a model pretrained here, or its checkpoint.pt")
        stdout.print("  random:<recipe>  an untrained model of a pretraining recipe, a baseline")
        stdout.print("  file.py:Class    a class of yours; check-upstream says whether it will do")
        stdout.print("  hf:<id, folder>  a Hugging Face speech encoder, by folder or hub id")
        stdout.print("  <s3prl name>     any upstream of s3prl's hub, for example fbank, hubert")
    if what == "upstreams":
        from mt4ssl_bench.features import s3prl_names

        stdout.print("  " + ", ".join(s3prl_names()))


def _fail(message: str) -> int:
    """Print an error in one line; returns its exit code."""
    stderr.print(Text.assemble(("error: ", "bold red"), flat(" ".join(message.split()))))
    return 2


def main() -> None:
    """Run the command line: one line and exit code 2 for a user's error, 130 for an interruption."""
    threads.configure()  # before a command imports torch
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names of files that a terminal cannot show
    try:
        code = app(standalone_mode=False)  # a command's exit code; typer makes 130 of Ctrl-C
    except (BenchError, OSError) as error:  # OSError: a folder that is a file, a full disk
        code = _fail(str(error))
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors have it
            raise  # anything else is our own mistake
        code = _fail(error.format_message())
    if code == INTERRUPTED:
        stderr.print("interrupted; what was complete is kept, and the same command continues")
    sys.exit(code if isinstance(code, int) else 0)
