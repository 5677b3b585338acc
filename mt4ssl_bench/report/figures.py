"""Figures as inline SVG: forest plots, scatter plots and curves, drawn by matplotlib.

Texts stay texts, and colours are variables of the page's style, so that a figure follows its colour
scheme. Equal data give equal bytes. A figure is WIDTH units wide; the page scales it.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html import escape

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mt4ssl_bench.results.grid import shorten
from mt4ssl_bench.text import flat

WIDTH, ROW, TOP, BOTTOM = 360, 22, 10, 38  # units of the SVG
LABEL, AXIS = 20, 40  # characters of a name beside its row, and of an axis
COLORS, MARKERS = 6, "osD^vPX"  # 6 and 7 share no factor: 42 models look different
DASHES = (0, (4, 3))
INK, FAINT = "#f000a0", "#f000b0"  # stand for the page's variables, see _inline()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row of a forest plot: a value with its interval; `look` is the model's (see Looks)."""

    name: str
    look: int
    value: float
    low: float
    high: float
    text: str
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A model in a scatter plot: its cost `x`, its value with interval."""

    look: int
    x: float
    value: float
    low: float
    high: float
    front: bool


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a model; NaN interrupts it.

    Attributes:
        chosen: Indices of points that are marked.
        low: Lower ends of intervals, empty without.
        joined: Whether points are joined.
        marked: Whether every point has the model's marker, instead of a few.
    """

    look: int
    x: Sequence[float]
    y: Sequence[float]
    chosen: Sequence[int] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    joined: bool = True
    marked: bool = True


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The texts of a figure: what it shows, for screen readers, and its axes."""

    about: str
    x: str
    y: str = ""
    ticks: Sequence[float] = field(default_factory=tuple)  # of x, on a log scale


def _settings(salt: str) -> AbstractContextManager[None]:
    """Return a context with the settings of a figure; `salt` keeps its ids apart from others."""
    return mpl.rc_context(
        {
            "svg.hashsalt": salt,
            "svg.fonttype": "none",
            "text.parse_math": False,  # a model may be called $a$
            "font.family": ["sans-serif"],
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 11,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": FAINT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": FAINT,
            "grid.alpha": 0.4,
            "path.simplify": False,  # curves are thinned where they are read
        }
    )


def color(look: int) -> str:
    """Return what stands for the colour of a model."""
    return f"#f0000{look % COLORS}"


def marker(look: int) -> str:
    """Return the marker of a model."""
    return MARKERS[look % len(MARKERS)]


def forest(bars: Sequence[Bar], labels: Labels, *, zero: bool = False) -> Markup:
    """Return a forest plot, the first bar at the top; `zero` draws the line of no difference."""
    names = [shorten(flat(bar.name), LABEL) for bar in bars]
    texts = [bar.text for bar in bars]
    left = 16 + 6.6 * max(map(len, names))
    right = 12 + 6.6 * max(map(len, texts))
    with _settings(labels.about):
        figure, axes = _axes(ROW * len(bars), left, right)
        for row, bar in enumerate(bars):
            ink = color(bar.look)
            axes.plot([bar.low, bar.high], [row, row], color=ink, linewidth=2)
            axes.plot([bar.value], [row], marker(bar.look), color=ink, markersize=7)
            weight = "bold" if bar.best else "normal"
            axes.annotate(
                bar.text,
                (1, row),
                (6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                verticalalignment="center",
                fontweight=weight,
            )
        axes.set_yticks(range(len(bars)), names)
        for bar, label in zip(bars, axes.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if bar.best else "normal")
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        ends = [*(bar.low for bar in bars), *(bar.high for bar in bars), *([0.0] if zero else [])]
        low, high = _limits(ends)
        axes.set_xlim(low, high)
        ticks = _ticks(low, high, most=4)
        axes.set_xticks(ticks, map(_number, ticks))
        axes.grid(axis="x")
        if zero:
            axes.axvline(0, color=INK, linewidth=1, linestyle=DASHES)
        axes.set_xlabel(shorten(flat(labels.x), AXIS), loc="right")
        return _inline(figure, labels.about)


def scatter(dots: Sequence[Dot], labels: Labels) -> Markup:
    """Return quality over cost on a log scale, with the front as a line; 0 stands at the left."""
    costs = [dot.x for dot in dots if dot.x > 0] or [1.0]
    ticks = _log_ticks(min(costs), max(costs))
    names = list(map(_number, ticks))
    left = min(costs)
    if any(dot.x <= 0 for dot in dots):
        left /= 10
        ticks, names = [left, *ticks], ["0", *names]
    at = [math.log10(max(dot.x, left)) for dot in dots]
    with _settings(labels.about):
        figure, axes = _axes(190, 52, 14)
        front = sorted((x, dot.value) for x, dot in zip(at, dots, strict=True) if dot.front)
        if len(front) > 1:
            xs, ys = zip(*front, strict=True)
            axes.step(xs, ys, where="post", color=INK, linewidth=1, linestyle=DASHES)
        for x, dot in zip(at, dots, strict=True):
            ink = color(dot.look)
            axes.plot([x, x], [dot.low, dot.high], color=ink, linewidth=2)
            axes.plot([x], [dot.value], marker(dot.look), color=ink, markersize=8)
        axes.set_xlim(min(at) - 0.25, max(at) + 0.25)
        axes.set_xticks(list(map(math.log10, ticks)), names)
        _finish_y(axes, [*(d.low for d in dots), *(d.high for d in dots)], labels)
        return _inline(figure, labels.about)


def curves(lines: Sequence[Curve], labels: Labels) -> Markup:
    """Return curves over x, which is on a log scale if `labels` has ticks."""
    with _settings(labels.about):
        figure, axes = _axes(190, 58, 14)
        for line in lines:
            _draw(axes, line, logarithmic=bool(labels.ticks))
        if labels.ticks:
            ticks = list(map(math.log10, labels.ticks))
            axes.set_xlim(min(ticks) - 0.2, max(ticks) + 0.2)
            axes.set_xticks(ticks, map(_number, labels.ticks))
        else:
            low, high = _limits([x for line in lines for x in line.x])
            axes.set_xlim(low, high)
            ticks = _ticks(low, high, whole=all(float(x).is_integer() for x in lines[0].x))
            axes.set_xticks(ticks, map(_number, ticks))
        _finish_y(axes, [y for line in lines for y in (*line.y, *line.low, *line.high)], labels)
        return _inline(figure, labels.about)


def _draw(axes: Axes, line: Curve, *, logarithmic: bool) -> None:
    ink, count = color(line.look), len(line.x)
    xs = list(map(math.log10, line.x)) if logarithmic else line.x
    if line.low:
        axes.fill_between(xs, line.low, line.high, color=ink, alpha=0.15, linewidth=0)
    step = max(count // 5, 1)
    few = (line.look % step, step)  # runs of equal lengths have theirs at other places
    axes.plot(
        xs,
        line.y,
        color=ink,
        linewidth=1.4,
        linestyle=DASHES if line.dashed else "-" if line.joined else "none",
        marker=marker(line.look),
        markersize=4,
        markerfacecolor="none" if line.dashed else ink,
        markevery=None if line.marked else few,
    )
    at = [index for index in line.chosen if math.isfinite(line.y[index])]
    if not at:
        return
    axes.plot(
        [xs[i] for i in at],
        [line.y[i] for i in at],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        color=ink,
    )


def _axes(height: float, left: float, right: float) -> tuple[Figure, Axes]:
    """Return a figure with axes of a height and margins in units."""
    whole = height + TOP + BOTTOM
    figure = Figure(figsize=(WIDTH / 72, whole / 72), dpi=72)
    figure.patch.set_visible(False)
    box = (left / WIDTH, BOTTOM / whole, (WIDTH - left - right) / WIDTH, height / whole)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    return figure, axes


def _finish_y(axes: Axes, values: Sequence[float], labels: Labels) -> None:
    low, high = _limits(values)
    axes.set_ylim(low, high)
    ticks = _ticks(low, high)
    axes.set_yticks(ticks, map(_number, ticks))
    axes.grid(axis="y")
    axes.set_xlabel(shorten(flat(labels.x), AXIS), loc="right")
    axes.set_ylabel(shorten(flat(labels.y), 32))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Return at most `most` round numbers in a range, with equal steps."""
    power = math.floor(math.log10((high - low) / most))
    steps = [digit * 10.0**exponent for exponent in (power, power + 1) for digit in (1, 2, 5)]
    wide = (step for step in steps if (high - low) / step < most and (step >= 1 or not whole))
    step = next(wide, 1.0)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return at most four round numbers in a range of positive ones, or the lowest."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [d * 10.0**power for power in range(first, last + 1) for d in (1, 2, 5)]
    for numbers in (every, [10.0**power for power in range(first, last + 1)]):
        ticks = [float(f"{x:.3g}") for x in numbers if low / 1.5 <= x <= high * 1.5]
        if len(ticks) <= 4:
            break
    return ticks[:: math.ceil(len(ticks) / 4)] if ticks else [low]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _inline(figure: Figure, about: str) -> Markup:
    """Return an SVG to stand in HTML: without ids that others could have, colours as variables."""
    content = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a name; the reader's fonts may have it
        figure.savefig(content, format="svg", metadata=nothing)
    svg = content.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)  # no data lie outside
    body = re.sub(r' clip-path="[^"]*"', "", body)
    body = re.sub(r"</?g\b[^>]*>|<defs>\s*</defs>", "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'("|; )font-size: 11px;? ?', r"\1", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    styles = dict(re.findall(r'<use href="#(\w+)"[^>]*style="([^"]*)"', body))
    for name, style in styles.items():  # once, instead of at each marker of a line
        body = re.sub(rf'(<path id="{name}"[^>]*style=")[^"]*', rf"\g<1>{style}", body)
    body = re.sub(r'(<use [^>]*?) style="[^"]*"', r"\1", body)
    body = re.sub(r'(?<= )(d|x|y|width|height|transform)="[^"]*"', _rounded, body)
    body = re.sub(r"#f0000(\d)", r"var(--c\1)", body)
    body = body.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    body = body.replace("; fill: var(--ink)", "")  # of every text
    body = re.sub(r'style="[^"]*"', lambda found: re.sub("(?<=[;:]) ", "", found.group()), body)
    body = re.sub(r"\n\s*", "\n", body)
    head = f'<svg class="plot" role="img" aria-label="{escape(flat(about))}" {view.group()}>'
    return Markup(head + body)  # noqa: S704 - matplotlib has escaped every text


def _rounded(found: re.Match[str]) -> str:
    short = re.sub(r"(\d+\.\d)\d+", r"\1", found.group()).replace("\n", "")
    return short.replace(" L ", " ").replace(' "', '"')  # further pairs of a path are lines anyway
