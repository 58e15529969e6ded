"""Middleware around Ray Serve's own HTTP servers, in its Python proxies and, behind HAProxy, in the replicas.

Serve repeats the client's `x-request-id` before the application sees the request, and does a fair amount of work for
every request, refused ones included. So ids are checked, and requests are admitted, before Serve.

Serve calls `middlewares` in each process with an HTTP server whose environment contains `ENVIRONMENT`. The application
sets it for its replicas; for the Python proxies it has to be set where the node starts, as the job and the image do.
"""

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.admission.limits import RequestEnvelope, plain_request_id
from serve.telemetry.paths import OTHER, route_of

if TYPE_CHECKING:  # its module imports torch, which a proxy does not need
    from serve.admission.front import Front

ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ingress:middlewares"}
_fronts: list["Front"] = []


def install(front: "Front") -> None:
    """Put the front of the replica of this process before Serve's HTTP server, which starts later."""
    _fronts[:] = [front]


def middlewares() -> list[Middleware]:
    """Return the middleware for Serve's HTTP server in this process."""
    return [Middleware(Ingress, front=_fronts[-1] if _fronts else None)]


class Ingress:
    """Replaces request ids that are not plain, and applies the front of the replica to requests for its routes.

    Other paths, Serve's health checks among them, and applications mounted below a path are left to the application.
    """

    def __init__(self, app: ASGIApp, *, front: "Front | None") -> None:
        self._app = app
        self._admitting = None if front is None else RequestEnvelope(front(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._admitting is not None and route_of(scope) != OTHER:
            await self._admitting(scope, receive, send)
            return
        if scope["type"] in {"http", "websocket"}:
            plain_request_id(scope)
        await self._app(scope, receive, send)
