"""Tables fit a terminal without losing a number, and are complete when they are piped."""

import html
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builders import call, record, refused, rendered
from mt4ssl_bench import results
from mt4ssl_bench.console import Lines
from mt4ssl_bench.results.grid import Entry, Grid, Heading, grid, shorten, to_rich
from mt4ssl_bench.results.grid_formats import to_html, to_latex, to_markdown
from mt4ssl_bench.results.leaderboard import Leaderboard
from mt4ssl_bench.text import latex

LONG = "hf:facebook/wav2vec2-large-robust-ft-libri-960h"
NUMBERS = [Heading(f"task{i} PER % ↓") for i in range(6)]
BOARD = Grid(
    title="a corpus",
    headings=[Heading("rank", key=True), Heading("upstream", "name", key=True), *NUMBERS],
    rows=[
        [
            Entry(str(r)),
            Entry(name),
            *(Entry(f"{r}{i}.5", f"[{r}{i}.1, {r}{i}.9]") for i in range(6)),
        ]
        for r, name in enumerate((LONG, "fbank"), 1)
    ],
    notes=["a note of some words that is longer than forty columns of a terminal"],
)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_fits_and_keeps_every_number_heading_and_word(width: int) -> None:
    shown = rendered(to_rich([BOARD]), width=width)
    assert max(map(len, shown.splitlines())) <= width
    for row in BOARD.rows:
        for entry in row[2:]:
            assert shown.count(entry.below) == 1
            assert re.search(rf"(?<![\d\[.]){entry.text}(?![\d\]])", shown)
    words = shown.split()
    assert all(f"task{i}" in words for i in range(6))
    assert set(BOARD.notes[0].split()) <= set(words)
    assert "fbank" in words


def test_a_table_that_fits_has_its_intervals_beside_the_numbers_and_one_line_a_row() -> None:
    shown = rendered(to_rich([BOARD]), width=200).splitlines()
    assert len(shown) == 1 + 2 + 2 + 1
    assert "10.5 [10.1, 10.9]" in shown[3]
    assert LONG in shown[3]


def test_intervals_go_below_before_columns_are_split() -> None:
    shown = rendered(to_rich([BOARD]), width=120).splitlines()
    assert sum(line.startswith("rank") for line in shown) == 1
    assert not any("10.5 [10.1" in line for line in shown)


def test_split_columns_repeat_the_keys_and_leave_out_rows_without_a_number() -> None:
    rows = [*BOARD.rows, [Entry("-"), Entry("only"), Entry("1.0"), *[Entry("-")] * 5]]
    table = Grid(headings=BOARD.headings, rows=rows)
    words = rendered(to_rich([table]), width=40).split()
    parts = words.count("rank")
    assert parts > 1
    assert words.count("fbank") == parts
    assert words.count("only") == 1


def test_bold_is_a_star_where_there_are_no_styles_and_the_note_says_so() -> None:
    table = Grid(
        headings=[Heading("x", "name", key=True), Heading("y")],
        rows=[[Entry("a"), Entry("1.0", bold=True)], [Entry("b"), Entry("2.0")]],
        bold="best value",
    )
    plain = rendered(to_rich([table])).splitlines()
    assert plain[2:] == ["a  *1.0", "b   2.0", "*: best value"]
    assert "bold: best value" in to_markdown([table])
    assert not Grid(headings=table.headings, rows=[], bold="best value").all_notes()


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("abc", 3, "abc"),
        ("abcdefgh", 5, "ab…gh"),
        ("abcdefgh", 4, "a…gh"),
        ("日本語のモデル", 7, "日…デル"),
        ("🎤🎤🎤🎤", 5, "🎤…🎤"),
    ],
)
def test_a_long_name_is_cut_in_the_middle_by_what_a_terminal_shows(
    text: str, width: int, short: str
) -> None:
    assert shorten(text, width) == short


def test_free_text_is_wrapped_between_words() -> None:
    table = grid("", [Heading("id", "name", key=True), Heading("said", "text")],
                 [("u1", "one two three four five six seven eight nine ten")])  # fmt: skip
    shown = rendered(to_rich([table]), width=40)
    assert max(map(len, shown.splitlines())) <= 40
    assert [w for w in shown.split() if w not in {"id", "said", "u1"} and w.isalpha()] == (
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )


def test_what_is_piped_has_no_width_and_no_trailing_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = Lines()
    lines.file = io.StringIO()
    lines.show(to_rich([BOARD]))
    shown = lines.file.getvalue().splitlines()
    assert len(shown) == 6
    assert all(line == line.rstrip() for line in shown)
    assert BOARD.notes[0] in shown


def on_a_terminal(columns: int, *command: str | Path, **environment: str) -> str:
    """Return what a command prints on a terminal of that width."""
    leader, follower = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "mt4ssl_bench", *map(str, command)],
            stdout=follower, stderr=follower, stdin=follower, check=True,
            env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"} | environment,
        )  # fmt: skip
    finally:
        os.close(follower)
    said = b""
    while True:
        try:
            said += (part := os.read(leader, 65536))
        except OSError:  # Linux: nobody writes any more
            break
        if not part:
            break
    os.close(leader)
    return said.decode()


NASTY = ["<script>alert(1)</script>", "a & b_c^d~e\\f{g}$h#i%", "--x", "[x]", 'say "so" 🎤', LONG]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NASTY):
        for task in ("phoneme", "asr", "speaker"):
            results.save(record(name, task, 10 + number), [], tmp_path)
    return tmp_path


def test_commands_fit_real_terminals_of_80_and_40_columns(folder: Path) -> None:
    for columns in (80, 40):
        shown = on_a_terminal(columns, "leaderboard", folder)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
        assert max(len(line) + line.count("🎤") for line in lines) <= columns
        assert "hf:face" in shown
        assert "\x1b[1m" in shown, "bold"


def test_without_colour_bold_stays(folder: Path) -> None:
    shown = on_a_terminal(80, "list", "tasks", NO_COLOR="1")
    assert set(re.findall(r"\x1b\[([0-9;]*)m", shown)) <= {"1", "0"}


class Cells(HTMLParser):
    """The texts of every cell, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the parser gives them
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_html_is_the_table_only_and_reads_back(folder: Path) -> None:
    board = Leaderboard.from_folder(folder)
    page = Cells()
    page.feed(board.to_html())
    assert set(page.tags) <= {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "b",
                              "small", "br"}  # fmt: skip
    (table,) = board.grids()
    headings = [heading.text for heading in table.headings]
    assert [[cell.strip() for cell in row] for row in page.rows[:-1]] == [
        headings,
        *([entry.whole.strip() for entry in row] for row in table.rows),
    ]
    assert html.escape(NASTY[0]) in board.to_html()
    assert "<b>10.0</b>" in board.to_html()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("{x}$#", r"\{x\}\$\#"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("---", "-{}-{}-"),
        ("[x] \u2193\u2191 \u00b1", r"{[}x] $\downarrow$$\uparrow$ $\pm$"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_is_escaped(text: str, escaped: str) -> None:
    assert latex(text) == escaped


def test_latex_has_booktabs_bold_and_intervals_by_a_flag(folder: Path) -> None:
    board = Leaderboard.from_folder(folder)
    for intervals in (False, True):
        text = board.to_latex(intervals=intervals)
        lines = [line for line in text.splitlines() if not line.startswith("%")]
        assert lines[1] == r"\begin{tabular}{rlrrrrr}"
        assert [lines[2], lines[4], *lines[-2:]] == [
            r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}",
        ]  # fmt: skip
        rows = lines[5:-2]
        assert len(rows) == len(NASTY)
        assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)
        assert r"\textbf{10.0}" in text
        assert ("9.0, 12.0]" in "".join(lines)) == intervals
        assert ("in brackets" in text) == intervals


def test_pdflatex_takes_the_table(folder: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    table = Leaderboard.from_folder(folder).to_latex(intervals=True).replace("🎤", "")
    paper = tmp_path / "paper.tex"
    paper.write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        f"{table}\n\\end{{document}}\n"
    )
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", paper.name],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip


def test_options_that_have_no_effect_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected --format latex" in refused(capsys, "leaderboard", folder, "--intervals")
    assert "--sweep: cannot be combined" in refused(
        capsys, "leaderboard", folder, "--sweep", "--format", "csv"
    )
    for form in ("latex", "html"):
        assert call("leaderboard", folder, "--format", form) == 0
        assert "10.0" in capsys.readouterr().out
        assert call("leaderboard", folder, "--suite", "small", "--format", form) == 0
        assert "upstream" in capsys.readouterr().out


def test_markdown_escapes_headings_cells_and_notes() -> None:
    table = grid("a|b", [Heading("x|y", "name", key=True), Heading("n")], [("*z*", "1")])
    assert to_markdown([table]).splitlines() == [
        r"### a\|b", "", r"| x\|y | n |", "| :-- | --: |", r"| \*z\* | 1 |", "",
    ]  # fmt: skip
    assert to_html([table]).count("<tr>") == 2
    assert r"x\textbar{}y & n \\" in to_latex([table])
