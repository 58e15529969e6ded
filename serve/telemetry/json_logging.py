"""The log of the service as JSON: one line per record, whatever is in it, and no secret."""

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
    """The text with keys and credentials hidden."""
    for secret in _SECRETS:
        text = secret.sub(rf"\1{_HIDDEN}", text)
    return text


class JsonFormatter(logging.Formatter):
    """A record as one line of ASCII: time, level, logger, message and the record's `fields`.

    Of an exception it has type and stack, never the message, which may quote the input. Texts are cut at 16,000
    characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _plain(record.getMessage()),
        }
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        line |= {name: _plain(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info and record.exc_info[0]:
            line["fault"] = record.exc_info[0].__name__
            line["stack"] = _plain("".join(traceback.format_tb(record.exc_info[2])))
        return json.dumps(line, default=lambda value: type(value).__name__)


def configure_json_logging(stream: TextIO | None = None) -> logging.Handler:
    """Writes the log of the service as JSON lines, from now on, and gives the handler; a second call replaces it.

    Args:
        stream: the process's own stderr by default, which Ray keeps as a file per worker (`worker-*.err`). Not
            `sys.stderr`: Ray Serve may put its own log in that place, at a level of which nothing is kept.
    """
    handler = logging.StreamHandler(stream or sys.__stderr__)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(LOGGER_NAME)
    for other in [each for each in logger.handlers if isinstance(each.formatter, JsonFormatter)]:
        logger.removeHandler(other)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return handler


def _plain(text: str) -> str:
    cut = text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}... ({len(text):,} characters)"
    return redact(cut)
