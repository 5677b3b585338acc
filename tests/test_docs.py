"""README and docs: links lead somewhere, commands and options exist, pages keep their size."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from builders import python
from mt4ssl_bench.cli.app import app
from mt4ssl_bench.config import recipe_names

ROOT = Path(__file__).parent.parent
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


def test_tables_of_the_registries_are_up_to_date() -> None:
    code = (
        "import runpy, sys; tables = runpy.run_path(sys.argv[1]); "
        "print([p.name for p in tables['DOCS'].rglob('*.md') "
        "if tables['filled'](p.read_text('utf-8')) != p.read_text('utf-8')])"
    )
    stale = python(code, ROOT / "docs" / "write_tables.py")  # in a process without test plug-ins
    assert stale == "[]\n", "run: python docs/write_tables.py"
