"""ASGI middleware: request ids, the last net under faults, bodies of bounded size, a bounded number of requests."""

import logging
import re
import traceback
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ERROR_TYPES, ApiError, api_error_response, error_response, overloaded
from serve.telemetry.json_lines import LOGGER

REQUEST_ID = "x-request-id"
_LOG = logging.getLogger(LOGGER)
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestEnvelope:
    """Gives every request an id, on the answer and in errors, and turns a fault into 500 without detail.

    The client's own `x-request-id` is kept when it is plain; the log gets type and stack of a fault, never its message,
    which may quote the input. `sends_id` is False behind a proxy that puts the id on the answer itself.
    """

    def __init__(self, app: ASGIApp, *, sends_id: bool = True) -> None:
        self._app, self._sends_id = app, sends_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        identity = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = identity
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._sends_id:
                    MutableHeaders(scope=message)[REQUEST_ID] = identity
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            stack = "".join(traceback.format_tb(error.__traceback__))
            fields = {"request_id": identity}
            _LOG.error("request %s: %s\n%s", identity, type(error).__name__, stack, extra={"fields": fields})
            if started:
                raise
            message = "internal fault; the log holds it under the request id"
            await error_response(scope, 500, message, ERROR_TYPES[500])(scope, receive, send_with_id)


class BodyLimit:
    """413 as soon as `Content-Length` or the bytes that arrived pass the limit; nothing beyond it is kept."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            await api_error_response(scope, self._too_large())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_bytes:,} bytes; send fewer or shorter texts")


class ConcurrencyLimit:
    """429 with Retry-After for a POST while `max_requests` others are being worked on; probes always pass."""

    def __init__(self, app: ASGIApp, *, max_requests: int) -> None:
        self._app, self._max_requests = app, max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._running >= self._max_requests:
            error = overloaded(f"{self._running} requests are being worked on; try again later", retry_after_s=1)
            await api_error_response(scope, error)(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1
