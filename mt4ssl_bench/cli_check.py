"""The command line's check of a corpus: counts first, then examples; nothing heavy is imported before it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mt4ssl_bench.console import stdout
from mt4ssl_bench.text import flat

if TYPE_CHECKING:
    from mt4ssl_bench.findings import Report

app = typer.Typer()

COMPARED = {
    "bytes": "the files' bytes; --full finds the same samples in another container too",
    "samples": "decoded samples; a copy in a lossy format is not found",
}
COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


@app.command()
def check(
    corpus: Annotated[Path, typer.Argument(help="A prepared corpus.")],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Decode every sample, instead of reading headers.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file too.")
    ] = None,
) -> None:
    """Look for what would stop a run or spoil a result: files, samples, duplicates, leaks, texts, speakers.

    The exit code is 1 when there is an error among the findings; warnings and notes leave it 0.

    Example: mt4ssl-bench check corpora/librispeech --full --json check.json
    """
    from mt4ssl_bench.corpus import Corpus
    from mt4ssl_bench.inspection import check_corpus

    opened = Corpus.open(corpus)
    report = check_corpus(opened, full=full)
    read = "decoded" if full else "headers"
    stdout.print(f"{corpus}: {opened.info.name} ({opened.info.digest}), {read}")
    _print(report)
    if file is not None:
        about = {"corpus": opened.info.name, "digest": opened.info.digest, "full": full}
        from mt4ssl_bench.files import write_text

        write_text(file, json.dumps(about | report.to_json(), indent=1, ensure_ascii=False) + "\n")
    if report.invalid:
        raise typer.Exit(1)


def _print(report: "Report") -> None:
    for split, facts in report.splits.items():
        rates = ", ".join(
            f"{count:,} at {int(rate) / 1000:g} kHz"
            for rate, count in facts["sample_rates"].items()
        )
        said = f"{facts['utterances']:,} utterances, {facts['hours']:.2f} h, {facts['speakers']} speakers ({rates})"
        stdout.print(f"  {split:10} {said}")
    stdout.print(f"  duplicates and leaks: by {COMPARED[report.compared]}")
    kinds = [finding.severity for finding in report.findings]
    counts = ", ".join(f"{kinds.count(kind)} kinds of {kind}" for kind in COLOURS if kind in kinds)
    stdout.print(f"  found: {counts or 'nothing'}")
    for finding in report.findings:
        severity = (f"  {finding.severity:8} ", COLOURS[finding.severity])
        stdout.print(Text.assemble(severity, flat(str(finding))))
