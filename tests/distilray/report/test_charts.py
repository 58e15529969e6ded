import re
import xml.etree.ElementTree as ET

import pytest

from distilray.report.blocks import template_environment
from distilray.report.charts import SERIES, Bar, Line, bar_chart, comparison_chart, line_chart, stacked_chart

LABELS = {"x_label": "step", "y_label": "loss"}


def draw(title="A <title>"):
    lines = [Line(f"line {n}", [1, 2, 3], [n + 1.0, n + 2.0, n + 0.5]) for n in range(len(SERIES))]
    return line_chart(title, lines, **LABELS)


@pytest.fixture(scope="module")
def chart():
    return draw()


def test_a_chart_is_xml_with_a_text_alternative(chart):
    element = ET.fromstring(chart.replace("xlink:href", "href"))
    assert element.get("role") == "img"
    assert element.get("aria-label").startswith("A <title>: line 0 from 1 to 0.5, line 1 from 2 to 1.5")


def test_a_chart_has_only_the_colors_of_the_page_and_no_style_or_address(chart):
    used = set(re.findall(r"var\(--(\w+)\)", chart))
    assert used >= {*SERIES, "grid", "faint"}
    colors = template_environment().get_template("colors.css").render()
    assert all(f"--{name}:" in colors for name in used)
    assert not re.findall(r"(?:fill|stroke): #\w+", chart)
    assert "<style" not in chart
    assert set(re.findall(r"https?://[^\"'<> ]+", chart)) == {"http://www.w3.org/2000/svg"}


def test_a_chart_is_reproducible_and_shares_no_id_with_another(chart):
    assert draw() == chart
    ids, others = (re.findall(r' id="([^"]+)"', svg) for svg in (chart, draw("another")))
    assert ids
    assert not set(ids) & set(others)


def test_a_long_line_is_averaged_to_few_points():
    assert Line("a", range(400), [1.0] * 400).points() == [(float(x), 1.0) for x in range(400)]
    points = Line("a", range(100_000), [float(n) for n in range(100_000)]).points()
    assert len(points) == 400
    assert points[0] == (124.5, 124.5)
    assert all(x == y for x, y in points)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_values_are_skipped(value):
    assert Line("a", [1, 2, 3], [1.0, value, 3.0]).points() == [(1.0, 1.0), (3.0, 3.0)]


def test_a_chart_without_points_or_bars_is_empty():
    assert line_chart("t", [Line("a", [], [])], **LABELS) == ""
    assert bar_chart("t", {}, **LABELS) == stacked_chart("t", {}, **LABELS) == ""


def test_the_text_alternative_names_the_highest_bar_or_the_sums():
    bars = bar_chart("Words", {"32": 1, "64": 7, "128": 2}, **LABELS)
    assert 'aria-label="Words: 3 bars, the highest at 64 with 7"' in bars
    stacked = stacked_chart("Cost", {"a": {"x": 1, "y": 0, "z": 12_500}, "b": {"x": 2, "y": 0, "z": 0}}, **LABELS)
    assert 'aria-label="Cost: a 12.5k, b 2"' in stacked
    assert [f">{name}<" in stacked for name in "xyz"] == [True, False, True]


def test_numbers_are_short():
    numbers = {"1.2e-4": 1.23e-4, "0.001": 0.001, "0": 0, "9,999": 9999, "10k": 1e4, "1M": 1e6, "1.0e9": 1e9}
    chart = line_chart("t", [Line("a", [1, 2], [value, -value]) for value in numbers.values()], **LABELS)
    for text in numbers:
        assert f"a from {text} to {'-' * (text != '0')}{text}" in chart


@pytest.mark.parametrize(
    ("values", "allow_log", "is_log"),
    [([1, 8], True, False), ([1, 8.1], True, True), ([1, 8.1], False, False), ([0, 8.1], True, False)],
)
def test_only_a_wide_range_of_positive_values_has_a_logarithmic_axis(values, allow_log, is_log):
    chart = line_chart("t", [Line("a", [1, 2], values)], **LABELS, allow_log=allow_log)
    assert (">4<" not in chart) == is_log
    assert ">a<" not in chart


def test_several_lines_have_a_legend_and_few_points_have_markers(chart):
    assert ">line 0<" in chart
    plain, marked = (line_chart("t", [Line("a", [1, 2], [1, 2], marker)], **LABELS) for marker in (False, True))
    assert marked.count("<use") == plain.count("<use") + 2


def compare(**groups):
    return comparison_chart("Scores", groups, x_label="%", baselines={"a": 0.1}, baseline_label="baseline")


def test_a_comparison_names_every_bar_and_the_marks():
    chart = compare(a={"x": Bar(0.25, "25%", [0.2, 0.3]), "y": Bar(-0.5, "-50%")}, b={"y": Bar(0.75, "75%")})
    assert 'aria-label="Scores: a: x 25%, y -50%; b: y 75%"' in chart
    for text in ("25%", "-50%", "75%", "x", "y", "a", "b", "baseline"):
        assert chart.count(f">{text}<") == 1
    assert compare() == compare(a={}) == ""


def test_the_first_of_several_models_is_muted():
    several, alone = compare(a={"x": Bar(1, "1"), "y": Bar(2, "2")}), compare(a={"x": Bar(1, "1")})
    assert {name for name in SERIES if f"var(--{name})" in several} == {"gray", "blue"}
    assert {name for name in SERIES if f"var(--{name})" in alone} == {"blue"}


def luminance(color):
    """Relative luminance (WCAG 2.2)."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_have_the_contrast_of_wcag_aa(theme):
    css = template_environment().get_template("colors.css").render().split("@media")
    colors = dict(re.findall(r"--(\w+): (#\w{6})", css[theme]))
    texts = [(text, background) for text in ("ink", "faint", "link") for background in ("page", "card")]
    texts += [("ink", background) for background in ("warn", "bar", "hit")] + [("faint", "bar"), ("faint", "hit")]
    assert {pair: contrast(*map(colors.get, pair)) for pair in [*texts, ("blue", "card")]
            if contrast(*map(colors.get, pair)) < 4.5} == {}  # fmt: skip
    assert {name: contrast(colors[name], colors["card"]) for name in SERIES
            if contrast(colors[name], colors["card"]) < 3} == {}  # fmt: skip
