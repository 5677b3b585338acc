"""README and docs: links lead somewhere, commands and options exist, pages keep their size."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from builders import python
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.config import recipe_names

ROOT = Path(__file__).parent.parent
GROUPS = ("prepare", "store")  # commands that have commands
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_short_and_narrow(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    prose = "\n".join(lines).split("```")[::2]  # without code and what commands printed
    wide = [
        line
        for part in prose
        for line in part.splitlines()
        if len(line) > 100 and "](" not in line and not line.startswith("|")
    ]
    assert not wide


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every mt4ssl-bench command in a page's code blocks."""
    blocks = page.read_text(encoding="utf-8").split("```")[1::2]
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        start = line.find("mt4ssl-bench ")
        torchrun = line.find("-m mt4ssl_bench ")
        if line.strip().startswith("mt4ssl-bench "):
            yield shlex.split(line[start:], comments=True)[1:]
        elif torchrun >= 0:
            yield shlex.split(line[torchrun:], comments=True)[2:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
        command = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "get_command"):  # a group; its commands may be built when asked for
            found = command.get_command(typer.Context(command), rest.pop(0)) if rest else None
            assert found is not None, words
            command = found
        options = {
            name
            for parameter in command.get_params(typer.Context(command))
            for name in parameter.opts
        }
        used = rest[: rest.index("--")] if "--" in rest else rest
        for word in used:
            assert not word.startswith("--") or word in {*options, "--help"}, words
        if command.name == "pretrain":
            assert rest[0] in recipe_names(), words


def test_pages_with_commands_are_found() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 30


def checked(docs: Path) -> subprocess.CompletedProcess[str]:
    """Run the check of a folder of docs, in a process without the plug-ins of tests."""
    command = [sys.executable, docs / "write_tables.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_the_docs_take_from_the_code_is_up_to_date() -> None:
    run = checked(ROOT / "docs")
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


@pytest.mark.long
def test_a_stale_page_is_found(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    page = docs / "reference" / "commands" / "results.md"
    page.write_text(page.read_text(encoding="utf-8").replace("--sweep", "--sweeps"))
    run = checked(docs)
    assert run.returncode == 1
    assert run.stdout.startswith("reference/commands/results.md: out of date")


def test_a_key_needs_a_comment_that_gives_its_meaning(tmp_path: Path) -> None:
    head = "from dataclasses import dataclass\n\n@dataclass\nclass Config:\n    first: int = 1"
    (tmp_path / "bare.py").write_text(f"{head}  # in seconds\n    second: int = 2\n")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\nimport bare, describe_keys\n"
        "print(describe_keys.meaning(bare.Config, 'first'))\n"
        "try: describe_keys.written(bare.Config(), 'Config')\n"
        "except ValueError as error: print(error)"
    )
    said = python(code, ROOT / "docs", tmp_path).splitlines()
    assert said[0] == "in seconds"
    assert said[1].startswith("Config.second: no comment")


def test_every_command_is_in_the_reference() -> None:
    pages = (ROOT / "docs" / "reference" / "commands").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    headings = set(re.findall(r"^## (.*)$", text, flags=re.MULTILINE))
    group = typer.main.get_command(app)
    for name in group.list_commands(typer.Context(group)):
        command = group.get_command(typer.Context(group), name)
        inner = command.list_commands(typer.Context(command)) if name in GROUPS else [""]
        assert {f"{name} {each}".strip() for each in inner} <= headings
