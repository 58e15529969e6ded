"""Error responses: one table of statuses and one JSON envelope, which never quotes the input."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from distilray.inference.encoding import InputTextError, TextProblem

# Default error_type of each status.
ERROR_TYPES: Mapping[int, str] = {
    400: "InvalidJson",
    401: "Unauthorized",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "BodyTimeout",
    413: "BodyTooLarge",
    415: "UnsupportedMediaType",
    422: "Validation",
    429: "Overloaded",
    500: "Internal",
    503: "Unavailable",
    504: "DeadlineExceeded",
}
_NOT_JSON = "the body is not JSON"
_TEXT_ERROR_TYPES: Mapping[TextProblem, str] = {
    "no_mask": "NoMask",
    "too_long": "TextTooLong",
    "too_many_masks": "TooManyMasks",
    "encoding": "Tokenizer",
    "targets": "Targets",
}
# All error types of each status; docs/serving.md lists their causes and fixes.
STATUS_ERROR_TYPES: Mapping[int, frozenset[str]] = {
    status: frozenset({default}) for status, default in ERROR_TYPES.items()
} | {
    404: frozenset({ERROR_TYPES[404], "UnknownModel"}),
    422: frozenset({ERROR_TYPES[422], "Empty", "TooExpensive", *_TEXT_ERROR_TYPES.values()}),
}


class ErrorBody(BaseModel):
    """Body of every response that is not 200."""

    error: str
    error_type: str
    request_id: str


class ApiError(HTTPException):
    """HTTP error with an `error_type` from the table; can be raised anywhere below the API."""

    def __init__(
        self, status: int, message: str, *, error_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.error_type = error_type or ERROR_TYPES[status]
        assert self.error_type in STATUS_ERROR_TYPES[status], self.error_type


def text_error(error: InputTextError) -> ApiError:
    """Return the 422 error for a text that the task cannot process."""
    return ApiError(422, str(error), error_type=_TEXT_ERROR_TYPES[error.kind])


def overloaded(message: str, *, retry_after_s: float) -> ApiError:
    """Return the 429 error for a request that was rejected before any work was done."""
    return _retry_later(429, message, retry_after_s)


def unavailable(message: str, *, retry_after_s: float) -> ApiError:
    """Return the 503 error for a model that is temporarily unavailable."""
    return _retry_later(503, message, retry_after_s)


def _retry_later(status: int, message: str, retry_after_s: float) -> ApiError:
    return ApiError(status, message, headers={"retry-after": str(max(1, math.ceil(retry_after_s)))})


def error_response(
    scope: Scope, status: int, message: str, error_type: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the error envelope, and store the error type in the state of the scope for the metrics."""
    state = scope.setdefault("state", {})
    state["error_type"] = error_type
    body = {"error": message, "error_type": error_type, "request_id": request_id(scope)}
    return JSONResponse(body, status, dict(headers or {}))


def api_error_response(scope: Scope, error: ApiError) -> JSONResponse:
    """Return the response for a raised error."""
    return error_response(scope, error.status_code, str(error.detail), error.error_type, error.headers)


def request_id(scope: Scope) -> str:
    """Return the request id that `RequestEnvelope` has assigned."""
    return str(scope.get("state", {}).get("request_id", ""))


async def http_error(request: Request, error: Exception) -> Response:
    """Handle HTTP errors raised by FastAPI or by us."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    error_type = getattr(error, "error_type", None) or ERROR_TYPES.get(status, "Http")
    # FastAPI has another message for failures other than wrong syntax: nesting depth, long numbers, encoding.
    message = _NOT_JSON if status == 400 else str(error.detail)
    return error_response(request.scope, status, message, error_type, error.headers)


async def validation_error(request: Request, error: Exception) -> Response:
    """Handle request bodies that do not match the schema."""
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    kinds = {problem["type"] for problem in problems}
    if "json_invalid" in kinds:
        return error_response(request.scope, 400, _NOT_JSON, ERROR_TYPES[400])
    error_type = "Tokenizer" if "string_unicode" in kinds else ERROR_TYPES[422]
    return error_response(request.scope, 422, _describe_problem(problems), error_type)


def _describe_problem(problems: Sequence[Mapping[str, Any]]) -> str:
    """Return location and message of the first problem reported by pydantic, without quoting the input."""
    problem = problems[0]
    if problem["loc"] == ("body",) and problem["type"] == "missing":
        return "the body is empty; send JSON"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "too_long":
        message = "too many entries; /info lists the limits"
    if problem["type"] == "string_unicode":
        message = "contains an unpaired surrogate, which is not valid text; send the whole character"
    location = _location(problem["loc"][1:])
    return f"{location}: {message}" if location else message


def _location(path: Sequence[int | str]) -> str:
    """Format a location in a body as `inputs[1]`, without the tags of union members (in angle brackets)."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path if not str(step).startswith("<")]
    return "".join(steps).removeprefix(".")
