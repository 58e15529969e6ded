"""ASGI middleware that sees every request end, whatever ends it: an answer, a limit, a fault, a client that leaves.

It counts and times the request, and logs it: what it was and how it ended, never what it said.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ERROR_TYPES, request_id
from serve.telemetry.json_logging import LOGGER_NAME
from serve.telemetry.metrics import RequestRecord, Telemetry

_LOG = logging.getLogger(LOGGER_NAME)
_CLIENT_LEFT, _CLIENT_LEFT_TYPE = 499, "ClientDisconnect"
_NOTED = "noted"
_MAX_PATH = 200
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
# Every path beside those of the task; a folder of those below stands for all its files.
_PATHS = frozenset({"/", "/healthz", "/readyz", "/info", "/metrics", "/openapi.json"})
_FOLDERS = ("/ui", "/docs")
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def page_folder(path: str) -> str | None:
    """The folder of the page or the documentation that a path is or lies in, else None."""
    return next((folder for folder in _FOLDERS if path == folder or path.startswith(f"{folder}/")), None)


def route_label(scope: Scope, task_paths: Collection[str]) -> str:
    """The route of a request, also of one that was turned away before it was routed; `other` for an unknown path."""
    path = request_path(scope)
    return path if path in _PATHS or path in task_paths else page_folder(path) or OTHER


def method_of(scope: Scope) -> str:
    """The method of a request, `other` for one that is none of HTTP's usual."""
    method = str(scope.get("method", ""))
    return method if method in _METHODS else OTHER


def annotate(scope: Scope, *, model: str, **facts: float) -> None:
    """Notes for metrics and log what a route knows about its request: the model, and numbers by name.

    Never text of the request: what is noted is logged. `model` is one of the names that the service has.
    """
    scope.setdefault("state", {})[_NOTED] = (model, tuple(facts.items()))


class RequestMetrics:
    """Counts and times every HTTP request; stands inside `RequestEnvelope`, which gives the id, around all else.

    A client that leaves before its answer begins counts as 499: its request is cancelled, or the body that it sends
    breaks off. A fault counts as 500, which `RequestEnvelope` makes of it.

    Args:
        app: what answers.
        telemetry: what counts.
        task_paths: paths of the task, which are routes of their own in the metrics.
        log: is given every request that is over, as `RequestLog` is.
    """

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        *,
        task_paths: Collection[str],
        log: Callable[[RequestRecord], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app, self._telemetry, self._log, self._clock = app, telemetry, log, clock
        self._task_paths = task_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, watched = self._clock(), _Watched(scope, receive, send, route_label(scope, self._task_paths))
        fault = False
        self._telemetry.record_request_start()
        try:
            await self._app(scope, watched.receive, watched.send)
        except asyncio.CancelledError:
            watched.client_left()
            raise
        except BaseException:
            fault = True
            raise
        finally:
            record = watched.record(seconds=self._clock() - began, fault=fault)
            self._telemetry.request(record)
            if self._log is not None:
                self._log(record)


class _Watched:
    """One request on its way through the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, route: str) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._path, self._route = request_path(scope), route  # before routing, which may change the scope
        self._status = 0
        self._answered = self._left = False

    async def receive(self) -> Message:
        try:
            message = await self._receive()
        except Exception:  # how Serve's Python proxy ends a request whose client has left
            message = {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            self.client_left()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = self._status or message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True

    def client_left(self) -> None:
        """Without its whole answer, unless it had that."""
        if not self._answered:
            self._left = True
            self._status = self._status or _CLIENT_LEFT

    def record(self, *, seconds: float, fault: bool) -> RequestRecord:
        """What is to be said about the request now that it is over."""
        state = self._scope.get("state", {})
        error_type = _CLIENT_LEFT_TYPE if self._left else ERROR_TYPES[500] if fault else state.get("error_type", "")
        model, facts = state.get(_NOTED, ("", ()))
        return RequestRecord(
            request_id=request_id(self._scope),
            method=method_of(self._scope),
            route=self._route,
            path=self._path,
            status=self._status or 500,
            error_type=error_type,
            seconds=seconds,
            client_left=self._left,
            model=model,
            facts=facts,
        )


class RequestLog:
    """Logs requests that are over.

    Args:
        access_log: log every request, except for probes that are answered 200. Without it only answers of 500 and more
            are logged: a line per request costs more than routing it, and one per 429 would make an overload worse.
    """

    def __init__(self, *, access_log: bool = False) -> None:
        self._access_log = access_log

    def __call__(self, request: RequestRecord) -> None:
        """Logs a request, or does not."""
        failed = request.status >= 500
        quiet_probe = request.route in _PROBES and request.status < 300
        if failed or (self._access_log and not quiet_probe):
            _LOG.log(logging.WARNING if failed else logging.INFO, "request", extra={"fields": _fields(request)})


def _fields(request: RequestRecord) -> dict[str, str | int | float | bool]:
    fields: dict[str, str | int | float | bool] = {
        "request_id": request.request_id,
        "method": request.method,
        "route": request.route,
        "status": request.status,
        "duration_ms": round(request.seconds * 1000, 3),
    }
    if request.route == OTHER:
        fields["path"] = request.path[:_MAX_PATH].encode("unicode_escape").decode("ascii")
    if request.error_type:
        fields["error_type"] = request.error_type
    if request.client_left:
        fields["client_disconnect"] = True
    if request.model:
        fields["model"] = request.model
    return fields | {name: round(value, 3) for name, value in request.facts}
