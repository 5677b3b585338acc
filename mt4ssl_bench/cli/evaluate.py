"""Commands of evaluation: evaluate, transcribe."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from mt4ssl_bench.cli.options import EVALUATION, Device, Out
from mt4ssl_bench.cli.results import Format, print_leaderboard, print_sweeps
from mt4ssl_bench.console import stderr, stdout

app = typer.Typer()


@app.command(rich_help_panel=EVALUATION)
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
    """Evaluate upstreams on tasks and print the leaderboard.

    Rows that have a record are not computed again.

    A task's name means SUPERB's full recipe on corpora of 50 hours and more, and its _tiny recipe
    below.

    Example: mt4ssl-bench evaluate fbank runs/first --task asr --task phoneme --corpus corpora/mine
    --out results
    """
    from mt4ssl_bench.downstream.evaluate import evaluate as run
    from mt4ssl_bench.encoders.names import split_keys
    from mt4ssl_bench.errors import ConfigError

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


def print_estimate(
    upstreams: list[str],
    tasks: list[str],
    corpus: Path,
    **where: Any,  # noqa: ANN401
) -> None:
    """Print what an evaluation would do and cost."""
    from mt4ssl_bench.downstream.dry_run import estimate

    found = estimate(upstreams, tasks, corpus, **where)
    lines = [f"{row.upstream}, {row.job.recipe}: {row.about}" for row in found.rows]
    lines += [f"failed: {failure}" for failure in found.failures]
    lines.append(
        f"audio to pass: {found.hours:.2f} h, about {found.seconds / 60:.1f} min at the speed of a "
        "few seconds of it; training heads comes on top"
    )
    lines.append(
        f"features to keep: {decimal(found.bytes)}; free on that disk: {decimal(found.free)}"
    )
    lines.append(
        f"checkpoints of a row in training: at most {decimal(found.state)}, removed with its end; "
        f"trained models to keep: {decimal(found.models)}; free on that disk: "
        f"{decimal(found.free_out)}"
    )
    for line in lines:
        stdout.print(line)
    if found.failures:
        raise typer.Exit(1)


@app.command(rich_help_panel=EVALUATION)
def transcribe(
    model: Annotated[
        Path,
        typer.Argument(help="A folder of <out>/runs that an evaluation of asr or phoneme left."),
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="AUDIO...", help="Audio files, or folders of them.")
    ],
    *,
    lm: Annotated[
        Path | None, typer.Option(help="A KenLM n-gram, ARPA or binary: beam search with it.")
    ] = None,
    lexicon: Annotated[
        Path | None, typer.Option(help="Words to choose from; default: the training text's.")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, help="Hypotheses kept; default: the recipe's decode.beam.")
    ] = None,
    lm_weight: Annotated[
        float | None, typer.Option(help="Default: the recipe's decode.lm_weight.")
    ] = None,
    word_score: Annotated[
        float | None, typer.Option(help="Default: the recipe's decode.word_score.")
    ] = None,
    upstream: Annotated[
        str, typer.Option(help="Where the upstream of a frozen model is now.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    device: Device = "auto",
) -> None:
    """Print what is said in audio files, of any sample rate and length: path, tab, text.

    A file that cannot be read is reported and the others go on; the exit code is then 1.

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
    decode = {key: value for key, value in given.items() if value is not None}
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
