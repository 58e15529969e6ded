import json
import re
from pathlib import Path

import pytest
import yaml

from serve.telemetry.metrics import INSTRUMENTS

FOLDER = Path("serve/dashboards")
DASHBOARD = json.loads((FOLDER / "fill_mask.json").read_text(encoding="utf-8"))
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for rule in RULES]
EXPRESSIONS += [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
SERIES = {
    f"ray_{row.name}{suffix}": {*row.labels, "replica", *(["le"] if suffix == "_bucket" else [])}
    for row in INSTRUMENTS.values()
    for suffix in SUFFIXES[row.kind]
}


def selectors(expression):
    """Return name and labels of our series in an expression."""
    for name, labels in re.findall(r"\b(ray_fill_mask_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", labels)))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_series_is_in_the_table_with_its_suffix_and_its_labels(expression):
    for name, labels in selectors(expression):
        assert name in SERIES
        assert labels <= SERIES[name]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rates_are_only_applied_to_counters(expression):
    for name in re.findall(r"rate\((ray_fill_mask_\w+)", expression):
        assert name.endswith(("_total", "_bucket", "_count", "_sum"))
    for name, _ in selectors(expression):
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert f"rate({name}" in expression


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_parentheses_balance(expression):
    bare = re.sub(r'"[^"]*"', "", expression)
    open_ones, pairs = [], {")": "(", "]": "[", "}": "{"}
    for character in bare:
        if character in pairs.values():
            open_ones.append(character)
        elif character in pairs:
            assert open_ones.pop() == pairs[character]
    assert not open_ones


def test_every_instrument_is_on_the_dashboard():
    shown = " ".join(EXPRESSIONS)
    assert not [name for name in INSTRUMENTS if f"ray_{name}" not in shown]


def test_panels_have_unique_ids_and_positions_and_the_selected_data_source():
    panels = DASHBOARD["panels"]
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(positions)) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


def test_every_rule_has_an_alert_severity_and_description():
    assert len({rule["alert"] for rule in RULES}) == len(RULES) == 4
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_the_latency_threshold_is_a_bucket_bound():
    threshold = next(float(rule["expr"].rpartition(">")[2]) for rule in RULES if rule["alert"] == "FillMaskSlow")
    assert threshold in INSTRUMENTS["fill_mask_request_seconds"].buckets
