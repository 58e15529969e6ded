"""`GET /metrics`: the metrics of the replica that answers, for Prometheus.

Behind several replicas the answer is that of one of them, another at each call; the label `replica` on every series
tells which. Numbers of the whole service are on the metrics ports of Ray's nodes, where the same names stand with the
prefix `ray_`. So scrape this route only where each replica has an address of its own, or where there is one.
"""

from fastapi import APIRouter, Request, Response

from serve.telemetry.recorder import Telemetry

_DESCRIPTION = "Metrics in Prometheus' text format, or OpenMetrics when `accept` asks for it."


def metrics_routes(telemetry: Telemetry) -> APIRouter:
    """The route of the metrics."""
    router = APIRouter()
    shown = {200: {"description": _DESCRIPTION, "content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get(
        "/metrics",
        response_class=Response,
        responses=shown,  # type: ignore[arg-type]
        tags=["Service"],
        summary="Expose the metrics of one replica",
    )
    def metrics(request: Request) -> Response:
        """The metrics of the replica that answers; those of all are on the metrics ports of Ray, prefixed `ray_`."""
        body, media_type = telemetry.replica.expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return router
