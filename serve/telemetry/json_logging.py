"""JSON logging: one line per record, with secrets redacted."""

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER_NAME = "serve"
_MAX_CHARS = 16_000
_HIDDEN = "***"
_SECRETS = (
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(
        r"(?i)(\b(?:proxy-)?(?:authorization|x-api-key|x-ray-authorization|api[_-]?key|distilray_api_keys|"
        r"ray_auth_token)\b[\"']?[ \t]*[:=][ \t]*b?[\"']?(?:(?:bearer|basic)[ \t]+)?)[^\s\"']+"
    ),
)


def redact(text: str) -> str:
    """Replace keys and credentials in a text."""
    for secret in _SECRETS:
        text = secret.sub(rf"\1{_HIDDEN}", text)
    return text


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON: time, level, logger, message and the record's `fields`.

    Exceptions are logged with type and stack trace, but without message, which may quote the input. Texts are truncated
    to 16,000 characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, without a line break."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        line |= {name: _clean(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info and record.exc_info[0]:
            line["fault"] = record.exc_info[0].__name__
            line["stack"] = _clean("".join(traceback.format_tb(record.exc_info[2])))
        return json.dumps(line, default=lambda value: type(value).__name__)


def configure_json_logging(stream: TextIO | None = None) -> logging.Handler:
    """Log to a stream as JSON lines, and return the handler; another call replaces it.

    Args:
        stream: defaults to the original stderr of the process, which Ray stores in a file per worker (`worker-*.err`).
            `sys.stderr` is not suitable, because Ray Serve may redirect it to its own log at a level that is discarded.
    """
    handler = logging.StreamHandler(stream or sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(LOGGER_NAME)
    for previous in [other for other in logger.handlers if isinstance(other.formatter, JsonFormatter)]:
        logger.removeHandler(previous)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler


def _clean(text: str) -> str:
    truncated = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}... ({len(text):,} characters)"
    return redact(truncated)
