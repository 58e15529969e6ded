import re
import xml.etree.ElementTree as ET

import pytest

from distilray.report.blocks import template_environment
from distilray.report.charts import SERIES, Line, bar_chart, line_chart


def drawn(**changes):
    lines = [Line(f"line {n}", [1, 2, 3], [n + 1.0, n + 2.0, n + 0.5]) for n in range(len(SERIES))]
    return line_chart("A <title>", lines, x_label="step", y_label="loss", **changes)


def test_a_chart_is_whole_xml_and_says_what_it_shows():
    element = ET.fromstring(drawn().replace("xlink:href", "href"))
    assert element.get("role") == "img"
    assert element.get("aria-label").startswith("A <title>: line 0 from 1 to 0.5, line 1 from 2 to 1.5")


def test_a_chart_has_the_colors_of_the_page_and_no_other():
    chart = drawn()
    used = set(re.findall(r"var\(--(\w+)\)", chart))
    assert used >= {*SERIES, "grid", "faint"}
    colors = template_environment().get_template("colors.css").render()
    assert all(f"--{name}:" in colors for name in used)
    assert not re.findall(r"(?:fill|stroke): #\w+", chart)


def test_a_chart_brings_no_style_of_its_own_and_no_address():
    chart = drawn()
    assert "<style" not in chart
    assert set(re.findall(r"https?://[^\"'<> ]+", chart)) == {"http://www.w3.org/2000/svg"}


def test_two_charts_share_no_id():
    ids = [
        re.findall(r' id="([^"]+)"', line_chart(t, [Line("a", [1, 2], [1, 2])], x_label="", y_label="")) for t in "ab"
    ]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_the_same_numbers_give_the_same_bytes():
    assert drawn() == drawn()


def test_a_long_line_keeps_its_course_in_few_points():
    line = Line("a", range(100_000), [float(n) for n in range(100_000)])
    points = line.points()
    assert 300 <= len(points) <= 400
    assert all(x == y for x, y in points)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(value):
    assert Line("a", [1, 2, 3], [1.0, value, 3.0]).points() == [(1.0, 1.0), (3.0, 3.0)]


def test_without_a_point_there_is_no_chart():
    assert line_chart("t", [Line("a", [], [])], x_label="", y_label="") == ""
    assert bar_chart("t", {}, x_label="", y_label="") == ""


def test_bars_say_which_is_the_highest():
    assert 'aria-label="Words: 3 bars, the highest at 64 with 7"' in bar_chart(
        "Words", {"32": 1, "64": 7, "128": 2}, x_label="", y_label=""
    )
