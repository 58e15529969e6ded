import re
import xml.etree.ElementTree as ET

import pytest

from distilray.report.blocks import template_environment
from distilray.report.charts import SERIES, Line, bar_chart, line_chart, stacked_chart

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
