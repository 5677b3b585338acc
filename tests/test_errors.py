"""One helper shortens the errors of other libraries: it takes empty messages and blank lines."""

import ast
from pathlib import Path

import pytest

from mt4ssl_bench.errors import first_line, lines, with_class

ROOT = Path(__file__).parent.parent
SOURCES = [
    p for room in ("mt4ssl_bench", "upstream", "downstream") for p in ROOT.glob(f"{room}/*.py")
]


@pytest.mark.parametrize("message", ["", "\n", "  \n\t\n"])
def test_an_empty_message_gives_the_class(message: str) -> None:
    error = NotImplementedError(message) if message else NotImplementedError()
    assert first_line(error) == "NotImplementedError"
    assert lines(error) == ["NotImplementedError"]
    assert with_class(error) == "NotImplementedError"


def test_the_first_line_with_text_is_taken() -> None:
    error = ValueError("\n  shape (2, 3)  \nexpected (3, 2)\n")
    assert first_line(error) == "shape (2, 3)"
    assert with_class(error) == "ValueError: shape (2, 3)"
    assert lines(error) == ["shape (2, 3)", "expected (3, 2)"]


def cuts_an_error(path: Path) -> bool:
    """Whether a module cuts str(error) into lines on its own."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "splitlines"
        and ast.unparse(node.value) == "str(error)"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_no_module_has_a_copy() -> None:
    assert [path.name for path in SOURCES if cuts_an_error(path)] == ["errors.py"]
