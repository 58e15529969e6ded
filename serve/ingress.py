"""Admission of requests before Ray Serve handles them.

Ray Serve has its own HTTP servers: in its Python proxies and, with HAProxy, in the replicas. They send the client's
`x-request-id` back before the application sees the request, and they spend considerable time on every request, even if
the application rejects it. Therefore request ids are checked and requests are admitted in front of these servers.

Serve calls `middlewares` in each process that has an HTTP server and `ENVIRONMENT` in its environment. The application
sets these variables for its replicas. For the Python proxies, they must be set when the node starts; the job and the
image do this.
"""

from collections.abc import Collection

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from distilray.config.serving import LimitsConfig
from serve.auth import ApiKeys, RequireKey
from serve.limits import Admission, Capacity, RequestEnvelope, ensure_request_id
from serve.telemetry.metrics import Telemetry
from serve.telemetry.requests import OTHER, RequestLog, RequestMetrics, route_label

ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ingress:middlewares"}
_PASSED = "passed_gateway"
_gateways: "list[Gateway]" = []


class Gateway:
    """Wraps applications in metrics, authentication and admission control, outermost first.

    All wrapped applications share one capacity, and only the first one that a request passes handles it. They must be
    inside `RequestEnvelope`, which assigns the request id.

    Args:
        limits: limits of the replica.
        paths: paths of the task.
        telemetry: metrics of the replica.
        keys: valid API keys; None disables authentication.
        access_log: log every request.
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
        """Return True if the path of a request belongs to this service."""
        return route_label(scope, self._paths) != OTHER

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Return the application wrapped in the middleware."""
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
    """Set the gateway of this process; Serve's HTTP server uses it when it starts."""
    _gateways[:] = [gateway]


def middlewares() -> list[Middleware]:
    """Return the middleware for Serve's HTTP server in this process; Serve calls this function."""
    return [Middleware(Ingress, gateway=_gateways[-1] if _gateways else None)]


class Ingress:
    """Replaces invalid request ids, and applies the gateway of the replica to requests for its routes.

    Other requests pass to the application: Serve's health checks, unknown paths, applications mounted below a path.
    """

    def __init__(self, app: ASGIApp, *, gateway: Gateway | None) -> None:
        self._app, self._gateway = app, gateway
        self._guarded_app = None if gateway is None else RequestEnvelope(gateway(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._gateway and self._guarded_app and self._gateway.has_route(scope):
            await self._guarded_app(scope, receive, send)
            return
        if scope["type"] in {"http", "websocket"}:
            ensure_request_id(scope)
        await self._app(scope, receive, send)
