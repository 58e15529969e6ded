"""One line in the log for a request: what it was, how it ended, how long it took; never what it said."""

import logging

from serve.telemetry.json_lines import LOGGER
from serve.telemetry.paths import OTHER
from serve.telemetry.recorder import RequestRecord

_LOG = logging.getLogger(LOGGER)
_MAX_PATH = 200
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


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
