import pytest

from distilray.operations.plan.plan_page import scaling_charts
from distilray.operations.plan.simulation import STEP_PARTS
from distilray.report.charts import stacked_chart

RUN = {"workers": 2, "tokens_per_s": 1500.0, "efficiency": 0.75, "parts": dict.fromkeys(STEP_PARTS, 0.5)}


def test_charts_show_the_ideal_rate_and_the_seconds_of_all_workers():
    throughput, bars = scaling_charts({"scaling": [RUN]})
    assert "ideal from 2,000 to 2,000" in throughput  # 1500 / 0.75
    assert "Worker seconds of a step: 2 7" in bars  # 2 workers x 7 parts x 0.5 s


@pytest.mark.parametrize(
    ("bars", "is_shown"),
    [({}, False), ({"a": {"work": 1.0, "waiting": 0.0}}, False), ({"a": {"work": 1.0, "waiting": 0.1}}, True)],
)
def test_only_parts_with_a_height_are_drawn(bars, is_shown):
    chart = stacked_chart("t", bars, x_label="x", y_label="y")
    assert ("waiting" in chart) is is_shown
    assert bool(chart) is bool(bars)
