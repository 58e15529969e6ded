import io
import json
import logging
import sys

import pytest

from serve.telemetry.json_logging import JsonFormatter, configure_json_logging, redact
from serve.telemetry.metrics import RequestRecord
from serve.telemetry.requests import RequestLog

KEY = "0123456789abcdef-KEY"
LOG = logging.getLogger("serve")


@pytest.fixture
def lines():
    """Function that returns the logged records, and fails unless each line is a JSON object."""
    stream, before = io.StringIO(), (LOG.handlers[:], LOG.level, LOG.propagate)
    configure_json_logging(stream)

    def written():
        assert stream.getvalue().isascii()
        assert "\x1b" not in stream.getvalue()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield written
    LOG.handlers[:], LOG.level, LOG.propagate = before


def record(status=200, route="/score", **more):
    values = {"path": route, "status": status, "error_type": "", "seconds": 0.0123456, **more}
    return RequestRecord("id-1", "POST", route, **values)


def test_a_request_is_one_line_with_its_properties(lines):
    measurements = (("queue_ms", 0.25), ("inference_ms", 9.87654), ("items", 2), ("tokens", 11))
    log = RequestLog(access_log=True)
    log(record(429, error_type="Overloaded", model="student", measurements=measurements))
    log(record(499, error_type="ClientDisconnect", disconnected=True))
    first, second = lines()
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "serve",
        "message": "request",
        "request_id": "id-1",
        "method": "POST",
        "route": "/score",
        "status": 429,
        "error_type": "Overloaded",
        "duration_ms": 12.346,
        "model": "student",
        "queue_ms": 0.25,
        "inference_ms": 9.877,
        "items": 2,
        "tokens": 11,
    }
    assert second["client_disconnect"] is True


@pytest.mark.parametrize(
    ("access_log", "status", "route", "level"),
    [
        (False, 200, "/score", None),
        (False, 499, "/score", None),
        (False, 500, "/score", "WARNING"),
        (True, 200, "/score", "INFO"),
        (True, 404, "other", "INFO"),
        *((True, 200, route, None) for route in ("/healthz", "/readyz", "/metrics")),
        (True, 503, "/readyz", "WARNING"),
        (True, 429, "/healthz", "INFO"),
    ],
)
def test_the_status_and_the_setting_determine_whether_a_request_is_logged(lines, access_log, status, route, level):
    RequestLog(access_log=access_log)(record(status, route))
    assert [line["level"] for line in lines()] == ([level] if level else [])


@pytest.mark.parametrize("path", ["/\x1b[31mred", "/a\nb\r\n{}", "/" + "x" * 1_000_000, "/\ud800\u202e\u2028é"])
def test_an_unknown_path_is_truncated_and_escaped(lines, path):
    RequestLog(access_log=True)(record(404, "other", path=path))
    (line,) = lines()
    assert line["path"].isascii()
    assert line["path"].isprintable()
    assert len(line["path"]) <= 200 or len(path) < 200


@pytest.mark.parametrize("text", ["\x1b[2Jcleared", "a\nb\r\n{}\x00", "x" * 1_000_000, "\ud800\u2028", "%s %d %"])
def test_any_message_is_one_line(text):
    # Without a logger, because pytest can only report captured output that is valid text.
    line = JsonFormatter().format(logging.makeLogRecord({"msg": "%s", "args": (text,)}))
    assert line.isascii()
    assert "\n" not in line
    message = json.loads(line)["message"]
    assert message == (text if len(text) <= 16_000 else text[:16_000] + "... (1,000,000 characters)")


def test_a_stack_of_many_lines_is_one_line_without_the_message_of_the_exception(lines):
    message = "".join(["SEC", "RET"])  # the stack shows lines of code
    try:
        raise RuntimeError(message)
    except RuntimeError:
        LOG.exception("request %s: fault\nsecond line", "id-1")
    (line,) = lines()
    assert line["fault"] == "RuntimeError"
    assert "raise RuntimeError" in line["stack"]
    assert "SECRET" not in json.dumps(line)


@pytest.mark.parametrize(
    "text",
    [
        f"authorization: Bearer {KEY}",
        f"Authorization: {KEY}",
        f"bearer {KEY}",
        f"X-API-Key: {KEY}",
        f"{{b'x-api-key': b'{KEY}'}}",
        f'{{"api_key": "{KEY}"}}',
        f"DISTILRAY_API_KEYS={KEY},{KEY}",
        f"RAY_AUTH_TOKEN={KEY}",
        f"proxy-authorization: Basic {KEY}=",
    ],
)
def test_keys_are_hidden(lines, text):
    LOG.error(text, extra={"fields": {"also": text}})
    (line,) = lines()
    assert KEY not in json.dumps(line)
    assert "***" in line["message"]


@pytest.mark.parametrize("text", ["tokens = sum(lengths)", "a bearer of news", "the key: value", 'File "a.py", line 3'])
def test_other_text_is_unchanged(text):
    assert redact(text) == text


def test_values_that_are_not_json_are_logged_by_type(lines):
    LOG.warning("odd", extra={"fields": {"what": object(), "raw": b"x"}})
    (line,) = lines()
    assert (line["what"], line["raw"]) == ("object", "bytes")


def test_configuring_the_log_twice_writes_each_line_once_to_the_original_stderr(lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    handler = configure_json_logging()
    assert handler.stream is sys.__stderr__
    assert [each for each in LOG.handlers if isinstance(each.formatter, JsonFormatter)] == [handler]
    assert (LOG.propagate, LOG.level) == (False, logging.INFO)
