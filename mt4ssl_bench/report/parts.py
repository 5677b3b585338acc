"""The parts of a report's page: sections of panels, each a figure with the table of its numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mt4ssl_bench.results.metrics import Score


@dataclass(frozen=True, kw_only=True)
class Looks:
    """One look (colour and marker) per model, the same everywhere in a report."""

    numbers: dict[str, int]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Looks":
        """Return the looks of models in the order in which they get them."""
        return cls(numbers={name: number for number, name in enumerate(dict.fromkeys(names))})

    def __getitem__(self, name: str) -> int:
        """Return the look of a model."""
        return self.numbers[name]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the exact value that stands behind a number."""

    text: str
    value: float | None = None
    best: bool = False
    look: int | None = None  # of the model that the cell names

    @property
    def exact(self) -> str:
        """The value with all digits where the text has fewer, else ""."""
        if self.value is None or self.text == f"{self.value:.6g}":
            return ""
        return repr(self.value)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table; the first cell of a row is its heading. `apart` are rows below, under `divide`."""

    about: str  # for screen readers
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    apart: Sequence[Sequence[Cell]] = ()
    divide: str = ""
    wide: bool = False  # a leaderboard: shown at once, and its columns can be hidden


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure, and its numbers as a table; without one, they stand in the tables of the group."""

    title: str
    figure: Markup
    grid: Grid | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Panels about one corpus, or in one unit of time; `legend` names the models in them."""

    title: str
    panels: Sequence[Panel] = ()
    grids: Sequence[Grid] = ()
    legend: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """An utterance: reference and hypothesis, word below word, and the kind of each error."""

    name: str
    reference: str
    hypothesis: str
    marks: str = ""


@dataclass(frozen=True, kw_only=True)
class Detail:
    """All of one record: facts by name, tables, and its worst utterances."""

    title: str
    look: int
    facts: Sequence[tuple[str, str]]
    grids: Sequence[Grid]
    worst: Sequence[Aligned]
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; `empty` says why there is nothing in it, and how to get it."""

    anchor: str
    title: str
    about: str
    empty: str
    groups: Sequence[Group] = ()
    notes: Sequence[str] = ()


def number(value: float, digits: int = 2, *, best: bool = False) -> Cell:
    """Return the cell of a number with this many decimals."""
    return Cell(f"{value:.{digits}f}", value, best)


def with_interval(score: Score, *, best: bool) -> Cell:
    """Return the cell of a leaderboard, "22.9 ±0.4 [20.6, 25.0]"; "^": by a formula."""
    value, low, high = (f"{x:.{score.digits}f}" for x in (score.value, score.low, score.high))
    formula = "" if score.method == "bootstrap" else "^"
    text = f"{value}{score.spread(score.digits)} [{low}, {high}]{formula}"
    return Cell(text, score.value, best)


def general(value: float | None) -> Cell:
    """Return the cell of a number of any size, "-" of None."""
    return Cell("-") if value is None else Cell(f"{value:.4g}", value)


def model(name: str, looks: Looks, *, best: bool = False) -> Cell:
    """Return the cell that names a model."""
    return Cell(name, best=best, look=looks[name])


def legend(names: Iterable[str], looks: Looks) -> list[tuple[str, int]]:
    """Return the legend of models, each once, in the order of their looks."""
    return sorted(((name, looks[name]) for name in dict.fromkeys(names)), key=lambda pair: pair[1])
