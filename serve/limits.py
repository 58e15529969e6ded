"""Middleware for every request: ids, catch-all error handler, body limits, admission control."""

import asyncio
import logging
import re
import threading
import traceback
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ERROR_TYPES, ApiError, api_error_response, error_response, overloaded, request_id
from serve.telemetry.json_logging import LOGGER_NAME

REQUEST_ID = "x-request-id"
# Must equal `_ID_PATTERN` of `serve/haproxy_shedding.py`.
REQUEST_ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
_LOG = logging.getLogger(LOGGER_NAME)
_ID_PATTERN = re.compile(REQUEST_ID_PATTERN.encode())
# Incomplete bodies up to this size are not limited in number; larger ones share the memory of 32 maximum-size bodies.
_SMALL_BODY_BYTES, _MAX_LARGE_BODIES = 64 * 1024, 32
# No valid request has more lists and objects than this.
_MAX_CONTAINERS = 50_000
_ID_PLACEHOLDER = "request-id-placeholder"


def ensure_request_id(scope: Scope) -> str:
    """Return the request id, and make it the only `x-request-id` header of the scope.

    The client's id is kept if there is exactly one and it consists of 1 to 128 letters, digits and `._-`. Otherwise it
    is replaced, so that no later component, such as Ray Serve, can send it back.
    """
    name = REQUEST_ID.encode()
    ids = [value for key, value in scope["headers"] if key.lower() == name]
    if len(ids) == 1 and _ID_PATTERN.fullmatch(ids[0]):
        return str(ids[0].decode())
    new_id = uuid.uuid4().hex
    scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != name] + [(name, new_id.encode())]
    return new_id


class RequestEnvelope:
    """Assigns the request id, returns it in responses, and turns unhandled exceptions into 500 without details.

    The type and stack trace of an exception are logged, but not its message, which may quote the input. Set `sends_id`
    to False behind an HTTP server that adds the id to responses itself.
    """

    def __init__(self, app: ASGIApp, *, sends_id: bool = True) -> None:
        self._app, self._sends_id = app, sends_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        assigned_id = ensure_request_id(scope)
        scope.setdefault("state", {})["request_id"] = assigned_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._sends_id:
                    MutableHeaders(scope=message)[REQUEST_ID] = assigned_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            stack = "".join(traceback.format_tb(error.__traceback__))
            fields = {"request_id": assigned_id}
            _LOG.error("request %s: %s\n%s", assigned_id, type(error).__name__, stack, extra={"fields": fields})
            if started:
                raise
            message = "internal error; search the server log for the request id"
            await error_response(scope, 500, message, ERROR_TYPES[500])(scope, receive, send_with_id)


class Capacity:
    """Remaining capacity of one replica, shared by all its `Admission` instances; thread-safe.

    Args:
        max_requests: limit of concurrent requests.
        max_body_bytes: size limit of a body.
    """

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._free_requests, self._free_bytes = max_requests, _MAX_LARGE_BODIES * max_body_bytes
        self._lock = threading.Lock()

    def reserve(self, *, requests: int = 0, body_bytes: int = 0) -> bool:
        """Reserve capacity; return False, without reserving anything, if there is not enough."""
        with self._lock:
            if requests > self._free_requests or body_bytes > self._free_bytes:
                return False
            self._free_requests -= requests
            self._free_bytes -= body_bytes
            return True

    def release(self, *, requests: int = 0, body_bytes: int = 0) -> None:
        with self._lock:
            self._free_requests += requests
            self._free_bytes += body_bytes


class Admission:
    """Admits a POST request when its body is complete and the replica has capacity; other methods pass unchecked.

    Responds with 413 as soon as `content-length` or the received bytes exceed the limit, with 408 if the body is still
    incomplete after `body_timeout_s` seconds, and with 429 and `retry-after` if there is no capacity. Until its body is
    complete, a request only counts by its bytes. The 429 response is prepared in advance and sent without parsing the
    body, because an overloaded service sends it more often than any other response.
    """

    def __init__(self, app: ASGIApp, *, capacity: Capacity, body_timeout_s: float) -> None:
        self._app, self._capacity, self._body_timeout_s = app, capacity, body_timeout_s
        template = api_error_response({"state": {"request_id": _ID_PLACEHOLDER}}, _at_capacity())
        self._before_id, self._after_id = bytes(template.body).split(_ID_PLACEHOLDER.encode())
        self._headers = [pair for pair in template.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ApiError as error:
            await api_error_response(scope, error)(scope, receive, send)
            return
        if body is None:
            return
        if not self._capacity.reserve(requests=1):
            await self._reject(scope, send)
            return
        try:
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._capacity.release(requests=1)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the complete body, or None if the client has disconnected."""
        limit = self._capacity.max_body_bytes
        too_large = ApiError(413, f"the body is larger than {limit:,} bytes; send fewer or shorter texts")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        body, reserved = bytearray(), 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
                    if len(body) > _SMALL_BODY_BYTES:
                        if not self._capacity.reserve(body_bytes=len(body) - reserved):
                            raise _at_capacity()
                        reserved = len(body)
        except TimeoutError:
            problem = f"the body did not arrive within {self._body_timeout_s:g} s; send it again"
            raise ApiError(408, problem, headers={"connection": "close"}) from None
        finally:
            self._capacity.release(body_bytes=reserved)

    async def _reject(self, scope: Scope, send: Send) -> None:
        scope.setdefault("state", {})["error_type"] = ERROR_TYPES[429]
        body = self._before_id + request_id(scope).encode() + self._after_id
        headers = [*self._headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class JsonRequest(Request):
    """Request that limits the lists and objects in its body: once parsed, they take a hundred times their size."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            ApiError: 422 if it has more lists and objects than any valid request.
        """
        body = await self.body()
        containers = body.count(b"]") + body.count(b"}")
        if containers > _MAX_CONTAINERS:
            message = f"{containers:,} closing brackets; send at most {_MAX_CONTAINERS:,}"
            raise ApiError(422, message, error_type="TooExpensive")
        return await super().json()


class JsonRoute(APIRoute):
    """Route for JSON bodies that checks the media type before parsing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, preceded by the check."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            _check_media_type(request.headers)
            return await handler(JsonRequest(request.scope, request.receive))

        return checked


def _at_capacity() -> ApiError:
    return overloaded("the service has no room for more requests; try again later", retry_after_s=1)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` function that yields the body in one message, then the client's further messages."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _check_media_type(headers: Mapping[str, str]) -> None:
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip("\"'")
    if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8", "utf8"}:
        raise ApiError(415, "send content-type: application/json, in UTF-8")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "send the body without content-encoding")
