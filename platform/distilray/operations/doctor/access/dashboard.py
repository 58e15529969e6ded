"""What the dashboard and its jobs API answer without a token, with a wrong one, and with ours."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from distilray.operations.doctor.check import Finding, fail, ok, warn
from distilray.operations.ray_token import Token

JOBS = "/api/jobs/"
TIMEOUT_S = 5.0
_MAX_BYTES = 16 << 20
_SENDABLE = re.compile(r"[!-~]+")
_TUNNEL = "open the tunnel (ray dashboard cluster.yaml), or correct --address"

Get = Callable[[str, "str | None"], "tuple[int, bytes]"]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the address that was given, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def http_get(url: str, token: str | None) -> tuple[int, bytes]:
    """Status and body of a GET.

    Raises:
        OSError: no answer, or a token that no header takes (an error of the library would show it).
        ValueError: no URL.
    """
    if token is not None and not _SENDABLE.fullmatch(token):
        raise OSError("the token holds white space or signs that are not ASCII")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(url):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `is_url` has seen to the scheme
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status), answer.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP ({type(error).__name__})") from None


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_access(address: str, token: Token | None, get: Get = http_get) -> Finding:
    """The jobs API runs any code: it must answer nobody without the token, and us.

    Our token is sent only to what asks for one as Ray does.

    Args:
        address: of the dashboard, http://HOST:PORT.
        token: of this machine.
        get: (URL, token or None) -> status and body.
    """
    url = address.rstrip("/") + JOBS
    try:
        bare = get(url, None)[0]
        if bare == 200:
            fix = "export RAY_AUTH_MODE=token before every `ray start`, start anew, and close port 8265"
            return fail(
                f"{address} is open: its jobs API answers 200 without a token, whoever reaches it runs code", fix
            )
        if bare != 401:
            return fail(f"{address}: {bare} without a token, where Ray's jobs API answers 401", "correct --address")
        wrong = get(url, secrets.token_hex(32))[0]
        if wrong != 403:
            return fail(f"{address}: {wrong} with a wrong token, where Ray answers 403", "see what answers there")
        if token is None:
            return fail(
                f"{address}: 401 without a token, 403 with a wrong one; none here to send", "copy the cluster's"
            )
        right = get(url, token.value)[0]
    except (OSError, ValueError) as error:
        return fail(f"{address}: no answer ({getattr(error, 'reason', None) or error})", _TUNNEL)
    if right != 200:
        return fail(f"{address}: {right} with the token of {token.origin}", "copy the token of the cluster's head")
    told = f"{address}: 401 without a token, 403 with a wrong one, 200 with ours"
    if not address.startswith("https:") and not is_loopback(address):
        return warn(f"{told}; it travels in plain text", "use the tunnel of `ray dashboard`, or TLS")
    return ok(told)


def get_json(address: str, path: str, token: Token | None) -> Any:
    """What the dashboard says at a path.

    Raises:
        OSError: no answer, or another status than 200.
    """
    status, body = http_get(address.rstrip("/") + path, None if token is None else token.value)
    if status != 200:
        raise OSError(f"{address}{path} answers {status}")
    return json.loads(body)
