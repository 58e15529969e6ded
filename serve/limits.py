"""What every request passes: ids, catch-all error handler, complete JSON bodies of bounded size, admission control."""

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
# The same rule is in `serve/haproxy_shedding.py`.
REQUEST_ID_PATTERN = r"[A-Za-z0-9._-]{1,128}"
_LOG = logging.getLogger(LOGGER_NAME)
_PLAIN_ID = re.compile(REQUEST_ID_PATTERN.encode())
# Bodies up to this size may arrive in any number; larger ones share a budget of this many bodies of the maximum size.
_SMALL_BODY_BYTES, _LARGEST_BODIES = 64 * 1024, 32
# Texts with more brackets have too many tokens.
_MAX_CONTAINERS = 50_000
_ID_MARK = "request-id-mark"


def ensure_request_id(scope: Scope) -> str:
    """Return the request id, and leave it as the only `x-request-id` in the headers of the scope.

    The client's id is kept if there is one and it is plain: 1 to 128 letters, digits and `._-`. Otherwise it is
    replaced, so that nothing behind this call, such as Ray Serve, can repeat it.
    """
    name = REQUEST_ID.encode()
    ids = [value for key, value in scope["headers"] if key.lower() == name]
    if len(ids) == 1 and _PLAIN_ID.fullmatch(ids[0]):
        return str(ids[0].decode())
    identity = uuid.uuid4().hex
    scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != name] + [(name, identity.encode())]
    return identity


class RequestEnvelope:
    """Gives every request an id, in the answer and in errors, and turns an unhandled exception into 500 without detail.

    The log gets type and stack of an exception, never its message, which may quote the input. `sends_id` is False
    behind an HTTP server that adds the id to the answers itself.
    """

    def __init__(self, app: ASGIApp, *, sends_id: bool = True) -> None:
        self._app, self._sends_id = app, sends_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = ensure_request_id(scope)
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


class Capacity:
    """Room for requests of one replica, shared by all its `Admission` instances, in any thread.

    Args:
        max_requests: admitted and not yet answered.
        max_body_bytes: size of the largest body.
    """

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._free_requests, self._free_bytes = max_requests, _LARGEST_BODIES * max_body_bytes
        self._lock = threading.Lock()

    def take(self, *, requests: int = 0, body_bytes: int = 0) -> bool:
        """Reserve room; return False, and reserve nothing, if there is not enough."""
        with self._lock:
            if requests > self._free_requests or body_bytes > self._free_bytes:
                return False
            self._free_requests -= requests
            self._free_bytes -= body_bytes
            return True

    def give_back(self, *, requests: int = 0, body_bytes: int = 0) -> None:
        """Release what `take` reserved."""
        with self._lock:
            self._free_requests += requests
            self._free_bytes += body_bytes


class Admission:
    """Admits a POST once its body has arrived and if the replica has room; all other methods pass.

    413 as soon as `content-length` or the bytes received exceed the limit, 408 if the body is still incomplete after
    `body_timeout_s` seconds, and 429 with `retry-after` without room. Requests whose body is incomplete count for
    nothing but their bytes. The 429 is prepared in advance and sent before anything is parsed, because an overloaded
    service sends more of them than answers.
    """

    def __init__(self, app: ASGIApp, *, capacity: Capacity, body_timeout_s: float) -> None:
        self._app, self._capacity, self._body_timeout_s = app, capacity, body_timeout_s
        template = api_error_response({"state": {"request_id": _ID_MARK}}, _no_room())
        self._before_id, self._after_id = bytes(template.body).split(_ID_MARK.encode())
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
        if not self._capacity.take(requests=1):
            await self._refuse(scope, send)
            return
        try:
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._capacity.give_back(requests=1)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the complete body; None if the client disconnected."""
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
                        if not self._capacity.take(body_bytes=len(body) - reserved):
                            raise _no_room()
                        reserved = len(body)
        except TimeoutError:
            message_text = f"the body did not arrive within {self._body_timeout_s:g} s; send it again"
            raise ApiError(408, message_text, headers={"connection": "close"}) from None
        finally:
            self._capacity.give_back(body_bytes=reserved)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        scope.setdefault("state", {})["error_type"] = ERROR_TYPES[429]
        body = self._before_id + request_id(scope).encode() + self._after_id
        headers = [*self._headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class JsonRequest(Request):
    """A request whose body is parsed only if it has few lists and objects, which cost a hundred times their bytes."""

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            ApiError: 422 for more lists and objects than any valid request has.
        """
        body = await self.body()
        containers = body.count(b"]") + body.count(b"}")
        if containers > _MAX_CONTAINERS:
            message = f"{containers:,} closing brackets; send at most {_MAX_CONTAINERS:,}"
            raise ApiError(422, message, error_type="TooExpensive")
        return await super().json()


class JsonRoute(APIRoute):
    """A route of POST for JSON bodies only, which refuses others before it parses anything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind the check."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            _check_media_type(request.headers)
            return await handler(JsonRequest(request.scope, request.receive))

        return checked


def _no_room() -> ApiError:
    return overloaded("the service has no room for more requests; try again later", retry_after_s=1)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body in one message, then whatever the client does next."""
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
