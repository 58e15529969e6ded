"""Metrics and access log of all requests, including those that fail, are rejected, or whose client disconnects.

The content of requests is never logged.
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
_DISCONNECTED_STATUS, _DISCONNECTED_TYPE = 499, "ClientDisconnect"
_ANNOTATIONS = "annotations"
_MAX_PATH = 200
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
# Paths other than those of the task; each folder is one route for all its files.
_PATHS = frozenset({"/", "/healthz", "/readyz", "/info", "/metrics", "/openapi.json"})
_FOLDERS = ("/ui", "/docs")
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_path(scope: Scope) -> str:
    """Return the path of a request below the mount point of the application."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def page_folder(path: str) -> str | None:
    """Return the folder of the page or the documentation that contains a path, else None."""
    return next((folder for folder in _FOLDERS if path == folder or path.startswith(f"{folder}/")), None)


def route_label(scope: Scope, task_paths: Collection[str]) -> str:
    """Return the route of a request, even before routing; `other` for an unknown path."""
    path = request_path(scope)
    return path if path in _PATHS or path in task_paths else page_folder(path) or OTHER


def method_label(scope: Scope) -> str:
    """Return the method of a request, or `other` for an unusual one."""
    method = str(scope.get("method", ""))
    return method if method in _METHODS else OTHER


def annotate(scope: Scope, *, model: str, **measurements: float) -> None:
    """Add the model and measurements to the metrics and log record of a request.

    Do not pass any text of the request; `model` must be one of the configured names.
    """
    scope.setdefault("state", {})[_ANNOTATIONS] = (model, tuple(measurements.items()))


class RequestMetrics:
    """Middleware that records every HTTP request; only `RequestEnvelope`, which assigns the id, wraps it.

    A request whose client disconnects before the response starts is recorded with status 499, and one that ends in an
    unhandled exception with status 500.

    Args:
        app: application to call.
        telemetry: metrics of the replica.
        task_paths: paths of the task; each is a route in the metrics.
        log: called with each finished request.
        clock: returns seconds.
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
        start, exchange = self._clock(), _Exchange(scope, receive, send, route_label(scope, self._task_paths))
        failed = False
        self._telemetry.record_request_start()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            exchange.mark_disconnected()
            raise
        except BaseException:
            failed = True
            raise
        finally:
            record = exchange.record(seconds=self._clock() - start, failed=failed)
            self._telemetry.record_request(record)
            if self._log is not None:
                self._log(record)


class _Exchange:
    """Request in progress, with wrappers of `receive` and `send` that track its state."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, route: str) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._path, self._route = request_path(scope), route  # before routing changes the scope
        self._status = 0
        self._complete = self._disconnected = False

    async def receive(self) -> Message:
        try:
            message = await self._receive()
        except Exception:  # Serve's Python proxy raises if the client has disconnected
            message = {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            self.mark_disconnected()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = self._status or message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True

    def mark_disconnected(self) -> None:
        """Record a disconnection, unless the response is already complete."""
        if not self._complete:
            self._disconnected = True
            self._status = self._status or _DISCONNECTED_STATUS

    def record(self, *, seconds: float, failed: bool) -> RequestRecord:
        state = self._scope.get("state", {})
        error_type = (
            _DISCONNECTED_TYPE if self._disconnected else ERROR_TYPES[500] if failed else state.get("error_type", "")
        )
        model, measurements = state.get(_ANNOTATIONS, ("", ()))
        return RequestRecord(
            request_id=request_id(self._scope),
            method=method_label(self._scope),
            route=self._route,
            path=self._path,
            status=self._status or 500,
            error_type=error_type,
            seconds=seconds,
            disconnected=self._disconnected,
            model=model,
            measurements=measurements,
        )


class RequestLog:
    """Logs finished requests.

    Args:
        access_log: log all requests except successful probes, instead of only responses with status 500 and above.
            Logging a request takes more time than routing it, and logging each 429 would worsen an overload.
    """

    def __init__(self, *, access_log: bool = False) -> None:
        self._access_log = access_log

    def __call__(self, request: RequestRecord) -> None:
        """Log a request, depending on its status and route."""
        failed = request.status >= 500
        is_successful_probe = request.route in _PROBES and request.status < 300
        if failed or (self._access_log and not is_successful_probe):
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
    if request.disconnected:
        fields["client_disconnect"] = True
    if request.model:
        fields["model"] = request.model
    return fields | {name: round(value, 3) for name, value in request.measurements}
