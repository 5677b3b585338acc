"""The command line's speech: transcribe; nothing heavy is imported before a command runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
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
    device: Annotated[str, typer.Option(help="auto (cuda, mps, cpu), or a torch device.")] = "auto",
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
