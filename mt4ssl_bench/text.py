"""What users write: names and texts as one plain line for every output, and numbers."""

import html
import re

JOINERS = "\u200c\u200d"  # invisible, but part of how words of many languages are written
MARKS = re.compile(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])")  # not the _ inside a_word
FORMULA = ("=", "+", "-", "@")  # how a spreadsheet's formula begins


def flat(text: str) -> str:
    """Return `text` as one line without control characters.

    Line breaks and tabs become spaces. Other characters that are not printable (escape sequences,
    text direction) become escapes such as \\x1b.
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
    """Return `text` so that Markdown shows it as it is: no markup, HTML, link or table cell."""
    return MARKS.sub(r"\\\g<0>", html.escape(flat(text), quote=False))


def spreadsheet(text: str) -> str:
    """Return `text` as a CSV cell that no spreadsheet takes for a formula: "'" before = + - @."""
    line = flat(text).strip()
    return f"'{line}" if line.startswith(FORMULA) else line


def read_number(text: str) -> float:
    """Return the number that a file or a person wrote, NaN and infinity included.

    float() also reads "1_0" as 10 and the digits of other scripts.

    Raises:
        ValueError: If it is no number in ASCII digits.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"not a number: {text!r}")
    return float(text)
