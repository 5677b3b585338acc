"""Figures: colours that everybody can tell apart, texts as texts, ticks that are round."""

import itertools
import math
import re
from importlib import resources

import numpy as np
import pytest

from mt4ssl_bench.report import figures
from mt4ssl_bench.report.figures import Bar, Curve, Dot, Labels, curves, forest, scatter

# Machado, Oliveira and Fernandes 2009: how dichromats see linear RGB
SEEN = {
    "by most": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
# Ottosson 2020, Oklab: from linear RGB to cones, and on
CONES = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])
ABOUT = Labels(about="a figure", x="PER % ↓", y="loss")


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def schemes() -> list[dict[str, str]]:
    """The colours of the light and the dark scheme."""
    style = (resources.files("mt4ssl_bench.report") / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in blocks]


def contrast(a: str, b: str) -> float:
    low, high = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_contrast_and_are_told_apart_by_the_colour_blind(scheme: int) -> None:
    colors = schemes()[scheme]
    looks = [colors[f"c{number}"] for number in range(figures.COLORS)]
    for color in looks:
        assert contrast(color, colors["paper"]) >= 3  # WCAG 1.4.11, graphics
    for name in ("ink", "soft", "link", "best"):
        assert contrast(colors[name], colors["paper"]) >= 4.5  # WCAG 1.4.3, texts
    for seen, a, b in itertools.product(SEEN.values(), looks, looks):
        if a < b:
            ours, theirs = (LAB @ np.cbrt(CONES @ np.clip(seen @ linear(c), 0, 1)) for c in (a, b))
            assert np.linalg.norm(ours - theirs) > 0.08, (a, b)


def test_42_models_look_different() -> None:
    looks = {(figures.color(number), figures.marker(number)) for number in range(42)}
    assert len(looks) == 42


def test_names_are_texts_and_escaped() -> None:
    names = ("<b>&amp;", "$x_1$", "😀", "a" * 50)
    bars = [
        Bar(name=name, look=n, value=n, low=n - 1, high=n + 1, text=f"{n}.0")
        for n, name in enumerate(names)
    ]
    svg = forest(bars, ABOUT)
    for text in ("&lt;b&gt;&amp;amp;", "$x_1$", "😀", "aaaaaaaaa…aaaaaaaaaa", "PER % ↓"):
        assert f">{text}</text>" in svg, text
    assert "xmlns" not in svg
    assert "clip-path" not in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)  # every colour is the page's


def test_a_curve_with_nan_is_interrupted_and_one_without_any_value_is_drawn() -> None:
    nan = math.nan
    svg = curves([Curve(look=0, x=[1, 2, 3, 4], y=[1, nan, 2, 3])], ABOUT)
    paths = re.findall(r'd="([^"]*)" style="fill:none;stroke:var\(--c0\)', svg)
    assert [path.count("M") for path in paths] == [2]
    assert "<svg" in curves([Curve(look=0, x=[1], y=[nan])], ABOUT)


def test_a_scatter_plot_has_a_place_for_no_parameters() -> None:
    dots = [
        Dot(look=n, x=x, value=n, low=n, high=n, front=True) for n, x in enumerate((0, 2e6, 9e7))
    ]
    texts = re.findall(r">([^<>]+)</text>", scatter(dots, ABOUT))
    assert "0" in texts
    assert "1e+07" in texts


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.3, 0.001), (1e-9, 2e-9), (0.94, 105.06), (1, 4e5), (-7, -6.99)]
)
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    ticks = figures._ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:.10g}".strip("-0.").replace(".", "")) <= 7 for tick in ticks)
    whole = figures._ticks(0.9, 1.1, whole=True)
    assert whole == [1.0]
