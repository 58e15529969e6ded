"""The middleware in front of the routes, also in front of Ray Serve where Serve's HTTP server runs in the replica."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from distilray.config.serving import LimitsConfig
from serve.admission.keys import ApiKeys, RequireKey
from serve.admission.limits import Admission, Capacity
from serve.telemetry.recorder import Telemetry
from serve.telemetry.request_log import RequestLog
from serve.telemetry.requests import RequestMetrics

Front = Callable[[ASGIApp], ASGIApp]
_PASSED = "passed_front"


def create_front(
    limits: LimitsConfig, *, telemetry: Telemetry, keys: ApiKeys | None = None, access_log: bool = False
) -> Front:
    """Return a function that wraps an application in metrics, keys and admission, outermost first.

    All wrapped applications share one count of requests, and a request that passes several of them is handled by the
    first. They belong inside `RequestEnvelope`, which assigns the id.
    """
    capacity = Capacity(max_requests=limits.max_concurrent_requests, max_body_bytes=limits.max_body_bytes)

    def wrap(app: ASGIApp) -> ASGIApp:
        admission: ASGIApp = Admission(app, capacity=capacity, body_timeout_s=limits.body_timeout_s)
        guarded = admission if keys is None else RequireKey(admission, keys=keys)
        first = RequestMetrics(guarded, telemetry, log=RequestLog(access_log=access_log))

        async def once(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope.setdefault("state", {}).get(_PASSED):
                await app(scope, receive, send)
                return
            scope["state"][_PASSED] = True
            await first(scope, receive, send)

        return once

    return wrap
