"""Commands of evaluation: evaluate, transcribe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, cast

import typer
from rich.filesize import decimal

from mt4ssl_bench.cli.options import EVALUATION, WORKERS, Device, Out, SuiteName, in_workers
from mt4ssl_bench.cli.results import Format, print_leaderboard, print_suite, print_sweeps
from mt4ssl_bench.console import stderr, stdout

if TYPE_CHECKING:
    from mt4ssl_bench.downstream.dry_run import Estimate
    from mt4ssl_bench.downstream.transcribe import Search

app = typer.Typer()
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use at most N utterances per split, to try a setup. Such results are never ranked.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"{WORKERS} Default: for small LSTM heads (asr_tiny) one for each CPU thread, else "
        "one.",
    ),
]
Items = Annotated[
    Path | None,
    typer.Option(help="Item file of Libri-Light's format, for ABX: the tokens to compare."),
]


@app.command(rich_help_panel=EVALUATION)
def evaluate(
    upstreams: Annotated[
        list[str],
        typer.Argument(
            metavar="UPSTREAM... [KEY=VALUE]...",
            help="Run folders, s3prl names, hf:<id, id@revision or folder>, random:<recipe>; "
            "recipe keys.",
        ),
    ],
    *,
    corpus: Annotated[Path | None, typer.Option(help="A prepared corpus.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task or a recipe of one ('mt4ssl-bench list'); may be repeated."),
    ] = None,
    suite: SuiteName = "",
    corpora: Annotated[
        Path | None, typer.Option(help="Folder of the suite's corpora, each by its name.")
    ] = None,
    out: Out = Path("results"),
    store: Annotated[
        Path | None, typer.Option(help="Folder of the features; default: <out>/store.")
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    limit: Limit = None,
    items: Items = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, time and disk needed; compute nothing.")
    ] = False,
) -> None:
    """Evaluate upstreams on tasks, write a record each into --out and print the leaderboard.

    Rows that have a record are not computed again. A task's name, or SUPERB's abbreviation (PR,
    ASR, KS, ...), selects its full recipe for corpora of the size of SUPERB's, and its _tiny recipe
    for smaller ones; the log names it. Exit code 1 if a row fails.

    Instead of --task and --corpus, --suite and --corpora evaluate every task of a suite whose
    corpus is in the folder, and list what is missing.

    Processes (--workers, torchrun) share the work; rounding on GPUs apart, records stay the same.

    Example: mt4ssl-bench evaluate fbank runs/first --task asr --task phoneme --corpus corpora/mine
    --out results
    """
    from mt4ssl_bench.encoders.names import split_keys
    from mt4ssl_bench.errors import ConfigError

    names, overrides = split_keys(upstreams)
    if not names:
        raise ConfigError("evaluate: name at least one upstream, for example fbank")
    overrides += [f"items={items}"] if items else []
    how = _How(out=out, overrides=overrides, device=device, store=store, limit=limit)
    if suite and corpora and not (task or corpus):
        _evaluate_suite(names, suite, corpora, how, workers=workers, dry_run=dry_run)
    elif task and corpus and not (suite or corpora):
        _evaluate_tasks(names, task, corpus, how, workers=workers, dry_run=dry_run)
    else:
        raise ConfigError("evaluate: expected --task and --corpus, or --suite and --corpora")


class _How(TypedDict):
    """Arguments that evaluate() and evaluate_suite() share."""

    out: Path
    overrides: list[str]
    device: str
    store: Path | None
    limit: int | None


def _evaluate_tasks(
    names: list[str],
    tasks: list[str],
    corpus: Path,
    how: _How,
    *,
    workers: int | None,
    dry_run: bool,
) -> None:
    if dry_run:
        from mt4ssl_bench.downstream.dry_run import estimate

        print_estimate(estimate(names, tasks, corpus, **how))
        return
    from mt4ssl_bench.downstream.evaluate import evaluate as run
    from mt4ssl_bench.downstream.training.workers import pay_on_tasks

    in_workers(workers, lambda: pay_on_tasks(tasks, corpus, how["overrides"], how["device"]))
    outcome = run(names, tasks, corpus, **how)
    if outcome.results:
        print_sweeps(outcome.results)
        stdout.print()
        print_leaderboard(how["out"], Format.TABLE)
    _report(outcome.failures)


def _evaluate_suite(
    names: list[str],
    suite: str,
    corpora: Path,
    how: _How,
    *,
    workers: int | None,
    dry_run: bool,
) -> None:
    if dry_run:
        from mt4ssl_bench.downstream.dry_run import estimate_suite

        print_estimate(estimate_suite(names, suite, corpora, **how))
        return
    from mt4ssl_bench.downstream.evaluate import evaluate_suite
    from mt4ssl_bench.downstream.training.workers import pay_on_suite

    in_workers(workers, lambda: pay_on_suite(suite, corpora, how["overrides"], how["device"]))
    outcome = evaluate_suite(names, suite, corpora, **how)
    if outcome.results:
        print_suite(suite, how["out"], Format.TABLE, keys=how["overrides"])
    for line in outcome.missing:
        stdout.print(f"missing: {line}")
    _report(outcome.failures)


@app.command(rich_help_panel=EVALUATION)
def layers(
    upstream: Annotated[
        str, typer.Argument(help="Run folder, s3prl name, hf:<id or folder>, random:<recipe>.")
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the ABX task, as in evaluate."),
    ] = None,
    *,
    corpus: Annotated[
        Path, typer.Option(help="A prepared corpus with time-aligned phones, or of single words.")
    ],
    split: Annotated[
        str, typer.Option(help="train, valid or test. Default: valid, or test without one.")
    ] = "",
    clusters: Annotated[int, typer.Option(min=2, help="Clusters of each layer.")] = 100,
    store: Annotated[Path, typer.Option(help="Folder of the features.")] = Path("results/store"),
    device: Device = "auto",
) -> None:
    """Show which layer to cluster: ABX, phone purity and PNMI of every layer.

    The best layer has the highest PNMI, without time-aligned phones the lowest ABX error rate. Its
    'kmeans' command is printed, if its frames are those of labels (one per 20 ms).

    Example: mt4ssl-bench layers runs/first --corpus corpora/mine
    """
    from mt4ssl_bench.device import pick_device
    from mt4ssl_bench.downstream.layers.survey import survey
    from mt4ssl_bench.results.grid import Entry, Heading, grid, to_rich

    found = survey(
        upstream,
        corpus,
        overrides=keys or [],
        split=split,
        clusters=clusters,
        store=store,
        device=pick_device(device),
    )
    headings = [Heading("layer", key=True), *map(Heading, found.headings)]
    rows = [
        [Entry(str(layer), bold=layer == found.best), *cells]
        for layer, cells in enumerate(found.rows)
    ]
    stdout.show(to_rich([replace(grid("", headings, rows), notes=[found.reason])]))
    if found.command:
        stdout.print(f"next: {found.command}", markup=False)


def _report(failures: list[str]) -> None:
    for failure in failures:
        stderr.print(f"failed: {failure}")
    if failures:
        raise typer.Exit(1)


def print_estimate(plan: "Estimate") -> None:
    """Print what an evaluation would do and cost."""
    lines, passes = [], plan.passes
    for row in plan.rows:
        own = row.passes
        needs = f"; {own.hours:.2f} h of audio, about {own.seconds / 60:.1f} min"
        needs += f", {decimal(own.bytes)} to store"
        needs += f"; features take {own.stored / 60:.1f} min stored, {own.live / 60:.1f} on the fly"
        where = f"{row.upstream}, {row.job.recipe} on {row.job.corpus.info.name}"
        lines.append(f"{where}: {row.about}{needs if own.hours else ''}")
    lines += [f"missing: {line}" for line in plan.missing]
    lines += [f"failed: {failure}" for failure in plan.failures]
    lines.append(
        f"audio to pass: {passes.hours:.2f} h, about {passes.seconds / 60:.1f} min at the speed of "
        "a few seconds of it; training heads comes on top"
    )
    lines.append(
        f"features to store: {decimal(passes.bytes)}; free on that disk: {decimal(plan.free)}"
    )
    lines.append(
        f"checkpoints of a row in training: at most {decimal(plan.state)}, removed at its end; "
        f"trained models to store: {decimal(plan.models)}; free on that disk: "
        f"{decimal(plan.free_out)}"
    )
    for line in lines:
        stdout.print(line)
    if plan.failures:
        raise typer.Exit(1)


@app.command(rich_help_panel=EVALUATION)
def transcribe(
    model: Annotated[
        Path, typer.Argument(help="A folder of <out>/runs: of asr, phoneme or slots.")
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="AUDIO...", help="Audio files, or folders of them.")
    ],
    *,
    lm: Annotated[
        Path | None, typer.Option(help="A KenLM n-gram model, ARPA or binary, for beam search.")
    ] = None,
    lexicon: Annotated[
        Path | None,
        typer.Option(help="Word list of the beam search; default: the words of the training text."),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1, help="Hypotheses of the beam search; default: the recipe's decode.beam."
        ),
    ] = None,
    lm_weight: Annotated[
        float | None, typer.Option(help="Weight of --lm; default: the recipe's decode.lm_weight.")
    ] = None,
    word_score: Annotated[
        float | None, typer.Option(help="Added per word; default: the recipe's decode.word_score.")
    ] = None,
    upstream: Annotated[
        str, typer.Option(help="Present name of a frozen model's upstream, if it has changed.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    device: Device = "auto",
) -> None:
    """Transcribe audio files of any sample rate and length; print path, tab, text.

    A file that cannot be read is reported and the others are still transcribed; exit code 1.

    Example: mt4ssl-bench transcribe results/runs/asr-first-0123456789abcdef audio.flac
    """
    from mt4ssl_bench.device import pick_device
    from mt4ssl_bench.downstream.transcribe import transcribe as run

    given = {
        "lm": lm and str(lm),
        "lexicon": lexicon and str(lexicon),
        "beam": beam,
        "lm_weight": lm_weight,
        "word_score": word_score,
    }
    decode = cast("Search", {key: value for key, value in given.items() if value is not None})
    failed = False
    for path, text in run(
        model, files, decode=decode, upstream=upstream, device=pick_device(device)
    ):
        failed |= text is None
        if text is not None:
            row = json.dumps({"path": str(path), "text": text}, ensure_ascii=False)
            print(row if as_json else f"{path}\t{text}", flush=True)  # noqa: T201 - not for rich
    if failed:
        raise typer.Exit(1)
