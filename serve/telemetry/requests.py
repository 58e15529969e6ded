"""ASGI middleware that sees every request end, whatever ends it: an answer, a limit, a fault, a client that leaves."""

import asyncio
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ERROR_TYPES, request_id
from serve.telemetry.paths import method_of, path_of, route_of
from serve.telemetry.recorder import CLIENT_LEFT, RequestRecord, Telemetry

_CLIENT_LEFT_TYPE = "ClientDisconnect"
_NOTED = "noted"


def note(scope: Scope, *, model: str, **facts: float) -> None:
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
        log: is given every request that is over, as `request_log.RequestLog` is.
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
        began, watched = self._clock(), _Watched(scope, receive, send, route_of(scope, self._task_paths))
        fault = False
        self._telemetry.request_began()
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
        self._path, self._route = path_of(scope), route  # before routing, which may change the scope
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
            self._status = self._status or CLIENT_LEFT

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
