"""Middleware in front of the routes, and in front of Ray Serve's own HTTP servers.

These are in its Python proxies and, behind HAProxy, in the replicas.

Serve repeats the client's `x-request-id` before the application sees the request, and does a fair amount of work for
every request, refused ones included. So ids are checked, and requests are admitted, before Serve.

Serve calls `middlewares` in each process with an HTTP server whose environment contains `ENVIRONMENT`. The application
sets it for its replicas; for the Python proxies it has to be set where the node starts, as the job and the image do.

Where a server on this machine listens, and how to ask it something.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Collection

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from distilray.config.serving import LimitsConfig
from distilray.errors import InputError
from serve.auth import ApiKeys, RequireKey
from serve.limits import Admission, Capacity, RequestEnvelope, ensure_request_id
from serve.telemetry.metrics import Telemetry
from serve.telemetry.requests import OTHER, RequestLog, RequestMetrics, route_label


def available_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a look whether it can be bound.

    Raises:
        InputError: the port is taken, or the host is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do it: a port whose last connections are still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{host}:{port}: {reason}; stop what listens there or choose another with port=...") from None


def base_url(host: str, port: int) -> str:
    """The URL of a host and port; an IPv6 address gets its brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl_command(url: str) -> str:
    """A command that asks the service something."""
    body = json.dumps({"input_data": ["Paris is [MASK] of France"]})
    return f"curl {url}/score -H 'content-type: application/json' -d '{body}'"


ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ingress:middlewares"}
_PASSED = "passed_front"
_fronts: list[Gateway] = []


class Gateway:
    """Wraps an application in metrics, keys and admission, outermost first.

    All wrapped applications share one count of requests, and a request that passes several of them is handled by the
    first. They belong inside `RequestEnvelope`, which assigns the id.

    Args:
        limits: of the replica.
        paths: of the task.
        telemetry: counts requests.
        keys: that requests must bring; anyone may ask when None.
        access_log: a line in the log for every request.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        paths: Collection[str],
        telemetry: Telemetry,
        keys: ApiKeys | None = None,
        access_log: bool = False,
    ) -> None:
        self._capacity = Capacity(max_requests=limits.max_concurrent_requests, max_body_bytes=limits.max_body_bytes)
        self._body_timeout_s, self._paths, self._telemetry, self._keys = limits.body_timeout_s, paths, telemetry, keys
        self._log = RequestLog(access_log=access_log)

    def has_route(self, scope: Scope) -> bool:
        """Whether a request is for one of the routes of the service."""
        return route_label(scope, self._paths) != OTHER

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Return the application behind the front."""
        admission: ASGIApp = Admission(app, capacity=self._capacity, body_timeout_s=self._body_timeout_s)
        guarded = admission if self._keys is None else RequireKey(admission, keys=self._keys)
        first = RequestMetrics(guarded, self._telemetry, task_paths=self._paths, log=self._log)

        async def once(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope.setdefault("state", {}).get(_PASSED):
                await app(scope, receive, send)
                return
            scope["state"][_PASSED] = True
            await first(scope, receive, send)

        return once


def install(gateway: Gateway) -> None:
    """Put the front of the replica of this process before Serve's HTTP server, which starts later."""
    _fronts[:] = [gateway]


def middlewares() -> list[Middleware]:
    """Return the middleware for Serve's HTTP server in this process."""
    return [Middleware(Ingress, gateway=_fronts[-1] if _fronts else None)]


class Ingress:
    """Replaces request ids that are not plain, and applies the front of the replica to requests for its routes.

    Other paths, Serve's health checks among them, and applications mounted below a path are left to the application.
    """

    def __init__(self, app: ASGIApp, *, gateway: Gateway | None) -> None:
        self._app, self._front = app, gateway
        self._admitting = None if gateway is None else RequestEnvelope(gateway(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._front and self._admitting and self._front.has_route(scope):
            await self._admitting(scope, receive, send)
            return
        if scope["type"] in {"http", "websocket"}:
            ensure_request_id(scope)
        await self._app(scope, receive, send)
