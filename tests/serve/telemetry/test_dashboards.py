import json
import re
from pathlib import Path

import pytest
import yaml

from serve.telemetry.metrics import INSTRUMENTS

FOLDER = Path("serve/dashboards")
DASHBOARD = json.loads((FOLDER / "fill_mask.json").read_text(encoding="utf-8"))
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(rule["expr"] for rule in RULES),
    *(each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"),
]
SERIES = {
    f"ray_{row.name}{suffix}": {*row.labels, "replica", *(["le"] if suffix == "_bucket" else [])}
    for row in INSTRUMENTS.values()
    for suffix in (["_bucket", "_count", "_sum"] if row.kind == "histogram" else [""])
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_series_and_labels_of_the_table_and_rates_of_counters(expression):
    rates = set(re.findall(r"rate\((ray_fill_mask_\w+)", expression))
    for name, selector in re.findall(r"\b(ray_fill_mask_\w+)(?:\{([^}]*)\})?", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", selector)))
        assert labels <= SERIES[name]
        assert (name in rates) == name.endswith(("_total", "_bucket", "_count", "_sum"))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_parentheses_of_an_expression_balance(expression):
    parentheses = re.sub(r'"[^"]*"|[^][(){}]', "", expression)
    while pairs := re.findall(r"\(\)|\[\]|\{\}", parentheses):
        parentheses = parentheses.replace(pairs[0], "")
    assert parentheses == ""


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
        assert all(rule["annotations"][text] for text in ("summary", "description"))


def test_the_latency_threshold_is_a_bucket_bound():
    threshold = next(float(rule["expr"].rpartition(">")[2]) for rule in RULES if rule["alert"] == "FillMaskSlow")
    assert threshold in INSTRUMENTS["fill_mask_request_seconds"].buckets
