"""`docs/serving.md` agrees with the code."""

import re

import pytest

from distilray.config.serving import LimitsConfig
from serve.errors import ERROR_TYPES, STATUS_ERROR_TYPES
from serve.telemetry.metrics import INSTRUMENTS
from tests.serve.contract.clients import FILL, JSON, SCORE


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "serving.md").read_text(encoding="utf-8")


def rows(page, section):
    """Return the cells of the table in a section, without its header."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [re.split(r" *\| *", row) for row in re.findall(r"^\| *(.+?) *\|$", text, re.MULTILINE)][2:]


def test_the_page_lists_each_status_and_error_type_once_with_cause_and_fix(page):
    errors = rows(page, "Errors")
    expected = [(status, error_type) for status, types in STATUS_ERROR_TYPES.items() for error_type in types]
    assert sorted((int(status), error_type) for status, error_type, *_ in errors) == sorted(expected)
    assert all(len(row) == 4 and all(row) for row in errors)


def test_the_default_type_of_a_status_is_one_of_its_types():
    assert set(ERROR_TYPES) == set(STATUS_ERROR_TYPES)
    assert all(usual in STATUS_ERROR_TYPES[status] for status, usual in ERROR_TYPES.items())


def test_the_page_lists_the_limits_with_their_defaults_and_errors(page):
    limits = {name.strip("`"): (default, *answer.split()) for name, default, answer in rows(page, "Limits")}
    expected = {name: str(value) for name, value in LimitsConfig().model_dump().items()}
    assert {name: default for name, (default, _, _) in limits.items()} == expected
    assert all(error_type in STATUS_ERROR_TYPES[int(status)] for _, status, error_type in limits.values())


def test_the_page_lists_the_metrics_with_their_labels(page):
    named = {name.strip("`"): (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels, _ in rows(page, "Metrics")}
    assert named == {name: (each.kind, list(each.labels)) for name, each in INSTRUMENTS.items()}


def test_the_requests_of_the_page_are_answered(page, client):
    requests = re.findall(r"curl -s http://127\.0\.0\.1:8000(\S+) .*?-d '(.+?)'", page, re.DOTALL)
    assert {path for path, _ in requests} == {FILL, SCORE}
    for path, body in requests:
        assert client.post(path, content=body, headers=JSON).status_code == 200
