"""Tables as data, and on a terminal: they fit its width, and piped they are complete.

A table that is too wide for a terminal is made narrower in this order: headings on several lines,
intervals below their numbers, names cut in the middle, columns in several tables.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mt4ssl_bench.console import ANY_WIDTH
from mt4ssl_bench.text import flat

# number: right, whole; word: left, whole; name: cut in the middle; text: wrapped between words
Kind = Literal["number", "word", "name", "text"]
FLEXIBLE = {"name", "text"}
ENOUGH, LEAST = 24, 8  # characters of names and texts before columns are split, and after
GAP = 2  # characters between two columns
NO_BREAK = "\u00a0"  # where textwrap does not break a line
EMPTY = {"", "-"}


@dataclass(frozen=True)
class Entry:
    """A cell.

    `below` are numbers that belong to `text`, such as its interval: beside it or on the next line.
    """

    text: str
    below: str = ""
    bold: bool = False

    @property
    def whole(self) -> str:
        """All of it on one line."""
        return " ".join(filter(None, (flat(self.text), flat(self.below))))


@dataclass(frozen=True)
class Heading:
    """The heading of a column; a `key` column is repeated where columns are split."""

    text: str
    kind: Kind = "number"
    key: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table with its notes.

    Attributes:
        bold: What a bold entry is, for a note; "" for no note.
        intervals: Notes on what stands `below` in the entries.
        notes: All other notes.
    """

    title: str = ""
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Entry]]
    bold: str = ""
    intervals: Sequence[str] = ()
    notes: Sequence[str] = ()

    def all_notes(self, mark: str = "bold", *, intervals: bool = True) -> list[str]:
        """Return the notes, without line breaks; `mark` is how bold entries are shown."""
        shown = any(entry.bold for row in self.rows for entry in row)
        bold = [f"{mark}: {self.bold}"] if self.bold and shown else []
        about = self.intervals if intervals else ()
        return [flat(note) for note in (*about, *bold, *self.notes)]


def grid(title: str, headings: Sequence[Heading], rows: Sequence[Sequence[str | Entry]]) -> Grid:
    """Return a table without notes; a string is an entry."""
    cells = [[Entry(each) if isinstance(each, str) else each for each in row] for row in rows]
    return Grid(title=title, headings=headings, rows=cells)


def to_rich(grids: Sequence[Grid]) -> RenderableType:
    """Return tables for a rich console, with an empty line after each but the last."""
    parts: list[RenderableType] = []
    for each in grids:
        parts += [Text(), _Fitted(each)]
    return Group(*parts[1:])


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns of a terminal: a longer one is cut in the middle."""
    if cell_len(text) <= width:
        return text
    # a wide character that does not fit leaves a space
    head = set_cell_size(text, (width - 1) // 2).rstrip()
    tail = set_cell_size(text[::-1], width - 1 - cell_len(head)).rstrip()[::-1]
    return f"{head}…{tail}"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How columns are drawn.

    Attributes:
        wrapped: Whether headings may take several lines.
        below: Whether intervals stand below their numbers.
    """

    wrapped: bool
    below: bool


LAYOUTS = (
    _Layout(wrapped=False, below=False),
    _Layout(wrapped=True, below=False),
    _Layout(wrapped=True, below=True),
)


class _Fitted:
    """A table that takes the width of the console that shows it."""

    def __init__(self, table: Grid) -> None:
        self.table = table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        styled = console.color_system is not None
        table = self.table if styled else _starred(self.table)
        if table.title:
            yield Text(flat(table.title), "bold")
        for number, (drawn, width) in enumerate(_Drawing(table).tables(options.max_width)):
            if number:
                yield Text()
            shown = console.render(drawn, options.update(max_width=width))
            for line in Segment.split_lines(shown):
                yield from _without_end(line)
                yield Segment.line()
        yield from map(Text, table.all_notes("bold" if styled else "*"))


def _without_end(line: list[Segment]) -> list[Segment]:
    """Return a line without the spaces at its end."""
    while line and not line[-1].text.rstrip():
        line = line[:-1]
    return [*line[:-1], Segment(line[-1].text.rstrip(), line[-1].style)] if line else []


def _starred(table: Grid) -> Grid:
    """Return a table for a console without styles: a star stands before bold entries."""
    return replace(
        table,
        rows=[
            [replace(entry, text=f"*{entry.text}") if entry.bold else entry for entry in row]
            for row in table.rows
        ],
    )


class _Drawing:
    """The columns of a table, in one or several rich tables."""

    def __init__(self, table: Grid) -> None:
        self.headings, self.rows = table.headings, table.rows
        self.keys = [i for i, heading in enumerate(table.headings) if heading.key]
        self.others = [i for i, heading in enumerate(table.headings) if not heading.key]

    def tables(self, width: int) -> Iterator[tuple[Table, int]]:
        """Yield rich tables for a console, each with its own width."""
        layout, parts = self._parts(width)
        for part in parts:
            widths = self._widths(part, layout, width)
            rows = [row for row in self.rows if len(parts) == 1 or self._holds(row, part)]
            yield self._drawn(part, layout, widths, rows), sum(widths) + GAP * (len(widths) - 1)

    def _parts(self, width: int) -> tuple[_Layout, list[list[int]]]:
        """Return the first layout in which all columns fit, or the last and several parts."""
        for layout in LAYOUTS:
            if self._least([*self.keys, *self.others], layout) <= width:
                return layout, [[*self.keys, *self.others]]
        parts: list[list[int]] = []
        for index in self.others:
            if parts and self._least([*parts[-1], index], layout) <= width:
                parts[-1].append(index)
            else:
                parts.append([*self.keys, index])
        return layout, parts or [self.keys]

    def _holds(self, row: Sequence[Entry], part: Sequence[int]) -> bool:
        """Whether a row says something in the columns of a part."""
        return any(row[index].text not in EMPTY for index in part if index in self.others)

    def _least(self, columns: Sequence[int], layout: _Layout) -> int:
        """Return the width that columns need before they are split."""
        widths = [min(self._natural(i, layout), self._enough(i, ENOUGH)) for i in columns]
        return sum(widths) + GAP * (len(columns) - 1)

    def _enough(self, index: int, least: int) -> int:
        """Return a width to which a column may be cut or wrapped; only its words are whole."""
        heading = self.headings[index]
        words = max(map(cell_len, _words(heading)), default=0)
        return max(least, words) if heading.kind in FLEXIBLE else ANY_WIDTH

    def _natural(self, index: int, layout: _Layout) -> int:
        """Return the width in which nothing is cut or wrapped."""
        heading = self.headings[index]
        words = _words(heading) if layout.wrapped else [flat(heading.text)]
        lines = chain.from_iterable(_lines(row[index], layout) for row in self.rows)
        return max(map(cell_len, (*words, *lines)), default=0)

    def _widths(self, part: Sequence[int], layout: _Layout, width: int) -> list[int]:
        """Return the widths of a part's columns; the flexible ones share what numbers leave."""
        natural = [self._natural(index, layout) for index in part]
        widths = [
            min(most, self._enough(index, LEAST)) for index, most in zip(part, natural, strict=True)
        ]
        free = width - sum(widths) - GAP * (len(part) - 1)
        while free > 0 and widths != natural:
            place = min(
                (i for i, most in enumerate(natural) if widths[i] < most), key=widths.__getitem__
            )
            widths[place] += 1
            free -= 1
        return widths

    def _drawn(
        self,
        part: Sequence[int],
        layout: _Layout,
        widths: Sequence[int],
        rows: Sequence[Sequence[Entry]],
    ) -> Table:
        """Return columns as a rich table."""
        drawn = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP - 1, 0, 0),
            show_header=any(heading.text for heading in self.headings),
        )
        headings = [self.headings[index] for index in part]
        for heading, width in zip(headings, widths, strict=True):
            justify: Literal["left", "right"] = "right" if heading.kind == "number" else "left"
            drawn.add_column(Text(_wrapped(heading, width)), justify=justify, width=width)
        for row in rows:
            texts = []
            for index, heading, width in zip(part, headings, widths, strict=True):
                lines = _lines(row[index], layout)
                if heading.kind == "name":
                    lines = [shorten(line, width) for line in lines]
                style = "bold" if row[index].bold else ""
                texts.append(Text("\n".join(lines), style, overflow="fold"))
            drawn.add_row(*texts)
        return drawn


def _words(heading: Heading) -> list[str]:
    """Return the words of a heading; unit and direction belong to the word before."""
    return re.findall(r"\S+(?: [%↑↓])*", flat(heading.text))


def _wrapped(heading: Heading, width: int) -> str:
    """Return a heading's lines of at most `width` characters."""
    words = " ".join(word.replace(" ", NO_BREAK) for word in _words(heading))
    lines = textwrap.wrap(words, max(width, 1), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(NO_BREAK, " ")


def _lines(entry: Entry, layout: _Layout) -> list[str]:
    """Return an entry's lines."""
    return [flat(entry.text), flat(entry.below)] if layout.below and entry.below else [entry.whole]
