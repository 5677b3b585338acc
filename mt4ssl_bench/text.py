"""Names, texts and numbers written by users: escaping for each output, parsing of numbers."""

import html
import re

JOINERS = "\u200c\u200d"  # zero-width, but part of the spelling of words in many languages
MARKS = re.compile(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])")  # not the _ inside a_word
LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\`{}",
    "[": "{[}",  # at the start of a row it would be an argument of the row before
    "\u2193": r"$\downarrow$",
    "\u2191": r"$\uparrow$",
    "\u00b1": r"$\pm$",
}
FORMULA = ("=", "+", "-", "@")  # first characters of a spreadsheet's formula


def flat(text: str) -> str:
    r"""Return `text` on one line, without control characters.

    Line breaks and tabs become spaces. Other characters that are not printable (escape sequences,
    text direction) become escapes such as \x1b.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in JOINERS
        else " "
        if character.isspace()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def markdown(text: str) -> str:
    """Return `text` with markup, HTML, links and table cells escaped for Markdown."""
    return MARKS.sub(r"\\\g<0>", html.escape(flat(text), quote=False))


def latex(text: str) -> str:
    """Return `text` with LaTeX's special characters escaped, arrows and signs as commands."""
    escaped = "".join(LATEX.get(character, character) for character in flat(text))
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens would be a dash


def spreadsheet(text: str) -> str:
    """Return `text` as a CSV cell; "'" before = + - @ keeps spreadsheets from reading a formula."""
    line = flat(text).strip()
    return f"'{line}" if line.startswith(FORMULA) else line


def read_number(text: str) -> float:
    """Return the number in `text`, NaN and infinity included.

    Stricter than float(), which also accepts "1_0" as 10 and the digits of other scripts.

    Raises:
        ValueError: If it is not a number in ASCII digits.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"not a number: {text!r}")
    return float(text)


def in_millions(count: float) -> str:
    """Return a number of parameters in millions, without an exponent: 94.7, 0.042, 2162.0."""
    millions = count / 1e6
    return f"{millions:.1f}" if millions >= 1 else f"{millions:.2g}"
