import io
import json
import logging
import sys

import pytest

from serve.telemetry.json_logging import JsonFormatter, configure_json_logging, redact
from serve.telemetry.metrics import RequestRecord
from serve.telemetry.requests import RequestLog

KEY = "0123456789abcdef-KEY"


@pytest.fixture
def lines():
    """Function that returns the logged records, and fails unless each line is a JSON object."""
    logger, stream = logging.getLogger("serve"), io.StringIO()
    before = logger.handlers[:], logger.level, logger.propagate
    configure_json_logging(stream)

    def written():
        text = stream.getvalue()
        assert text.isascii()
        assert "\x1b" not in text
        return [json.loads(line) for line in text.splitlines()]

    yield written
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def record(status=200, route="/score", **more):
    return RequestRecord(
        "id-1", "POST", route, **{"path": route, "status": status, "error_type": "", "seconds": 0.0123456} | more
    )


def test_a_request_is_one_line_with_its_properties(lines):
    facts = (("queue_ms", 0.25), ("inference_ms", 9.87654), ("items", 2), ("tokens", 11))
    RequestLog(access_log=True)(record(429, error_type="Overloaded", model="student", measurements=facts))
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
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


def test_a_disconnected_client_is_logged(lines):
    RequestLog(access_log=True)(record(499, error_type="ClientDisconnect", disconnected=True))
    (line,) = lines()
    assert line["client_disconnect"] is True


@pytest.mark.parametrize(
    ("access_log", "status", "route", "logged"),
    [
        (False, 200, "/score", False),
        (False, 429, "/score", False),
        (False, 500, "/score", True),
        (False, 504, "/score", True),
        (True, 200, "/score", True),
        (True, 404, "other", True),
        (True, 200, "/healthz", False),
        (True, 503, "/readyz", True),
    ],
)
def test_what_is_logged_depends_on_the_status_and_the_setting(lines, access_log, status, route, logged):
    RequestLog(access_log=access_log)(record(status, route))
    assert len(lines()) == logged


@pytest.mark.parametrize("path", ["/\x1b[31mred", "/a\nb\r\n{}", "/" + "x" * 1_000_000, "/\ud800\u202e\u2028é"])
def test_an_unknown_path_is_truncated_and_escaped(lines, path):
    RequestLog(access_log=True)(record(404, "other", path=path))
    (line,) = lines()
    assert line["path"].isascii()
    assert line["path"].isprintable()
    assert len(line["path"]) < 2000


@pytest.mark.parametrize("text", ["\x1b[2Jcleared", "a\nb\r\n{}\x00", "x" * 1_000_000, "\ud800\u2028", "%s %d %"])
def test_any_message_is_one_line(text):
    # Without a logger, because pytest can only report captured output that is valid text.
    line = JsonFormatter().format(logging.makeLogRecord({"msg": "%s", "args": (text,)}))
    assert line.isascii()
    assert "\n" not in line
    assert len(json.loads(line)["message"]) < 20_000


def test_a_stack_of_many_lines_is_one_line_without_the_message_of_the_exception(lines):
    message = "".join(["SEC", "RET"])  # the stack shows lines of code
    try:
        raise RuntimeError(message)
    except RuntimeError:
        logging.getLogger("serve").exception("request %s: fault\nsecond line", "id-1")
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
        f"proxy-authorization: Basic {KEY}=",
    ],
)
def test_keys_are_hidden(lines, text):
    logging.getLogger("serve").error(text, extra={"fields": {"also": text}})
    (line,) = lines()
    assert KEY not in json.dumps(line)
    assert "***" in line["message"]


@pytest.mark.parametrize("text", ["tokens = sum(lengths)", "a bearer of news", "the key: value", 'File "a.py", line 3'])
def test_other_text_is_unchanged(text):
    assert redact(text) == text


def test_values_that_are_not_json_are_logged_by_type(lines):
    logging.getLogger("serve").warning("odd", extra={"fields": {"what": object(), "raw": b"x"}})
    (line,) = lines()
    assert (line["what"], line["raw"]) == ("object", "bytes")


def test_configuring_the_log_twice_writes_each_line_once(lines):
    logger = logging.getLogger("serve")
    configure_json_logging(io.StringIO())
    assert sum(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers) == 1
    assert not logger.propagate


def test_the_log_goes_to_the_original_stderr(lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert configure_json_logging().stream is sys.__stderr__
