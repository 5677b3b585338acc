"""Progress and logs go to stderr: a bar on a terminal, plain lines elsewhere, and nothing ever on
stdout.
"""

import io
import logging

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from builders import python
from mt4ssl_bench import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_off_a_terminal_progress_is_plain_lines_in_the_log_and_nothing_on_stdout(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    console.setup_logging()
    with console.progress("fit", 10) as advance:
        for _ in range(10):
            clock[0] += 5
            advance(1, "loss 0.5")
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line.split(" ", 1)[1] for line in err.splitlines()]  # without the time of day
    assert lines == [
        "fit: 4/10, 30 s left, loss 0.5",
        "fit: 8/10, 10 s left, loss 0.5",
        "fit: 10/10 in 50 s",
    ]


def test_what_is_quick_leaves_no_line(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    console.setup_logging()
    with console.progress("quick", 3) as advance:
        for _ in range(3):
            clock[0] += 1
            advance(1, "")
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_estimates_from_its_own_updates(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    console.setup_logging()
    with console.progress("fit", 100, start=80) as advance:
        clock[0] += 20
        advance(10, "")
    # 10 units in 20 s: the other 10 take 20 s
    lines = [line.split(" ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert lines == ["fit: 90/100, 20 s left", "fit: 90/100 in 20 s"]


def test_on_a_terminal_progress_is_a_bar_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=120))
    with console.progress("fit", 4) as advance:
        advance(3, "loss 0.25")
        advance(1, "")
    shown = screen.getvalue()
    assert "fit" in shown
    assert "4/4" in shown
    assert "loss 0.25" in shown
    assert capfd.readouterr() == ("", "")


def test_the_log_goes_to_stderr_with_the_time_of_day(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    console.setup_logging()
    logging.getLogger("mt4ssl_bench.somewhere").info("7 cuts")
    logging.getLogger("mt4ssl_bench.somewhere").debug("details")
    out, err = capfd.readouterr()
    assert out == ""
    assert err[8:] == " 7 cuts\n"
    assert [c for c in err[:8] if not c.isdigit()] == [":", ":"]
    assert logger.level == logging.INFO


def test_verbose_shows_debug_lines(capfd: pytest.CaptureFixture[str]) -> None:
    console.setup_logging(verbose=True)
    logging.getLogger("mt4ssl_bench.somewhere").debug("details")
    assert capfd.readouterr().err.endswith("details\n")


def test_setting_up_twice_does_not_write_twice(capfd: pytest.CaptureFixture[str]) -> None:
    console.setup_logging()
    console.setup_logging()
    logging.getLogger("mt4ssl_bench.somewhere").warning("once")
    assert capfd.readouterr().err.count("once") == 1


def test_importing_the_package_sets_up_no_handler() -> None:
    code = "from mt4ssl_bench.console import LOGGER; print(LOGGER.handlers, LOGGER.level, LOGGER.propagate)"
    assert python(code) == "[] 0 True\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\nthree\u2028four", "two lines  three four"),
        ("[bold]x[/bold] :cat: [/nothing]", "[bold]x[/bold] :cat: [/nothing]"),
        ("\x1b[31mred\x07\x00", "\\x1b[31mred\\x07\\x00"),
        ("\u202egnp.wav", "\\u202egnp.wav"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
    ],
)
def test_strings_are_printed_as_one_line_of_text(text: str, shown: str) -> None:
    lines = console.Lines()
    lines.file = io.StringIO()
    lines.print(text)
    assert lines.file.getvalue() == f"{shown}\n"
    table = Table("name", title=Text("t"))
    table.add_row(text)
    lines.print(table, soft_wrap=False, width=200)
    assert shown in lines.file.getvalue().split("\n", 1)[1]


def test_a_log_line_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    console.setup_logging()
    console.LOGGER.info("%s: skipping", "a\nb\x1b[31m")
    assert capfd.readouterr().err.splitlines()[0].endswith(" a b\\x1b[31m: skipping")
