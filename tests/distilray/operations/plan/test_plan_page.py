import pytest

from distilray.operations.plan.plan_page import scaling_charts
from distilray.operations.plan.simulation import STEP_PARTS
from distilray.report.charts import stacked_chart

RUN = {"workers": 2, "tokens_per_s": 1500.0, "efficiency": 0.75, "parts": dict.fromkeys(STEP_PARTS, 0.5)}


def test_the_ideal_is_the_rate_over_the_efficiency():
    throughput, _ = scaling_charts({"scaling": [RUN]})
    assert "ideal from 2,000 to 2,000" in throughput


def test_bars_are_the_seconds_of_all_workers():
    _, bars = scaling_charts({"scaling": [RUN]})
    assert "Worker seconds of a step: 2 7" in bars  # 2 workers x 7 parts x 0.5 s


@pytest.mark.parametrize(("height", "is_shown"), [(0.0, False), (0.1, True)])
def test_a_component_that_no_bar_has_is_not_drawn(height, is_shown):
    chart = stacked_chart("t", {"a": {"work": 1.0, "waiting": height}}, x_label="x", y_label="y")
    assert ("waiting" in chart) is is_shown


def test_no_bars_are_no_chart():
    assert stacked_chart("t", {}, x_label="x", y_label="y") == ""
