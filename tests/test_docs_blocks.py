"""Every shell and Python block of README and tutorial runs, in the order of the page.

MT4SSL_BENCH_DOCS_STEPS is the number of updates of each training (default: 2); "full" runs the
blocks as they stand there.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from builders import write_tones

ROOT = Path(__file__).parent.parent
STEPS = os.environ.get("MT4SSL_BENCH_DOCS_STEPS", "2")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PER_SPLIT = 24  # utterances of real speech of each split; full: all
SPEECH = ("fsdd_strings",)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block; what another test or CI runs is left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in BLOCK.findall(text) if not block[1].startswith("git clone")]


def write_command(folder: Path) -> None:
    """Write the command `mt4ssl-bench`, whose trainings have STEPS updates, into a folder."""
    run = shlex.join([sys.executable, "-m", "mt4ssl_bench"])
    cut = (
        {"pretrain": f"fit.steps={STEPS}", "evaluate": f"steps={STEPS}"} if STEPS != "full" else {}
    )
    cases = "".join(f'{name}) exec {run} "$@" {key};;\n' for name, key in cut.items())
    folder.mkdir()
    command = folder / "mt4ssl-bench"
    command.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}*) exec {run} "$@";;\nesac\n')
    command.chmod(0o755)


def run_blocks(page: str, folder: Path) -> list[str]:
    """Run the blocks of a page in a folder; return the output of each."""
    write_command(folder / "bin")
    path = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    programs: dict[str, Sequence[str]] = {
        "sh": ("bash", "-euo", "pipefail", "-c"),
        "python": (sys.executable, "-c"),
    }
    said = []
    for language, text in blocks(page):
        done = subprocess.run(
            [*programs[language], text],
            cwd=folder,
            env=os.environ | path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page}\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        said.append(done.stdout)
    return said


def link_speech(folder: Path, source: Path) -> None:
    """Lay a corpus of real speech into a folder: its audio, and the first rows of each split."""
    (folder / source.name).mkdir()
    for entry in source.iterdir():
        if entry.name != "manifest.tsv":
            (folder / source.name / entry.name).symlink_to(entry)
    head, *rows = (source / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    split = head.split("\t").index("split")
    kept: dict[str, list[str]] = {}
    for row in rows:
        kept.setdefault(row.split("\t")[split], []).append(row)
    if STEPS != "full":
        kept = {name: some[:: max(1, len(some) // PER_SPLIT)] for name, some in kept.items()}
    table = "\n".join([head, *(row for some in kept.values() for row in some)])
    (folder / source.name / "manifest.tsv").write_text(table + "\n", encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_every_block_has_a_language_that_runs(page: str) -> None:
    assert {language for language, _ in blocks(page)} == {"sh", "python"}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_blocks_of_the_readme_run(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    *_, board = run_blocks("README.md", tmp_path)
    for name in ("first", "fbank", "offline", "python"):
        assert f"| {name} |" in board


@pytest.mark.long
@pytest.mark.speech
@pytest.mark.timeout(3600)
def test_the_blocks_of_the_tutorial_run(tmp_path: Path) -> None:
    speech = Path(os.environ.get("MT4SSL_BENCH_SPEECH", ""))
    if not all((speech / name / "manifest.tsv").is_file() for name in SPEECH):
        pytest.skip("needs MT4SSL_BENCH_SPEECH")
    for name in SPEECH:
        link_speech(tmp_path, speech / name)
    write_tones(tmp_path / "my_corpus")
    first, _, python, digits = run_blocks("docs/tutorial.md", tmp_path)
    assert "fbank" in first
    assert "| python |" in python
    for corpus in SPEECH:
        assert corpus in digits
