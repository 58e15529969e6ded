"""`docs/serving.md` says what the code does."""

import json
import re

import pytest

from distilray.config.serving import LimitsConfig
from serve.errors import ERROR_TYPES, STATUS_ERROR_TYPES
from serve.telemetry.metrics import INSTRUMENTS
from tests.serve.contract.clients import FILL, JSON, SCORE

ROW = re.compile(r"^\| *(.+?) *\|$", re.MULTILINE)
CURL = re.compile(r"curl -s http://127\.0\.0\.1:8000(\S+) .*?-d '(.+?)'", re.DOTALL)


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "serving.md").read_text(encoding="utf-8")


def rows(page, section):
    """The cells of the table in a section, without its head."""
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [re.split(r" *\| *", row) for row in ROW.findall(text)][2:]


def test_the_page_names_exactly_the_statuses_and_error_types_of_the_code(page):
    named = [(int(status), error_type) for status, error_type, *_ in rows(page, "Errors")]
    assert len(named) == len(set(named))
    assert set(named) == {(status, each) for status, types in STATUS_ERROR_TYPES.items() for each in types}


def test_every_error_has_a_cause_and_a_fix(page):
    assert all(len(row) == 4 and all(row) for row in rows(page, "Errors"))


def test_the_page_names_exactly_the_limits_with_their_defaults_and_known_errors(page):
    named = {name.strip("`"): default for name, default, _ in rows(page, "Limits")}
    assert named == {name: str(value) for name, value in LimitsConfig().model_dump().items()}
    for _, _, answer in rows(page, "Limits"):
        status, error_type = answer.split()
        assert error_type in STATUS_ERROR_TYPES[int(status)]


def test_the_page_names_exactly_the_metrics(page):
    named = {name.strip("`"): (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels, _ in rows(page, "Metrics")}
    assert named == {name: (each.kind, list(each.labels)) for name, each in INSTRUMENTS.items()}


def test_the_requests_of_the_page_are_answered(page, client):
    requests = CURL.findall(page)
    assert {path for path, _ in requests} == {FILL, SCORE}
    for path, body in requests:
        assert json.loads(body)
        assert client.post(path, content=body, headers=JSON).status_code == 200


def test_the_usual_type_of_a_status_is_one_of_its_types():
    assert set(ERROR_TYPES) == set(STATUS_ERROR_TYPES)
    assert all(usual in STATUS_ERROR_TYPES[status] for status, usual in ERROR_TYPES.items())
