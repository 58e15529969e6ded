"""Access to a cluster: the address of its dashboard, Ray's token on this machine, and requests that send it."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distilray.errors import InputError

AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # what `ray dashboard cluster.yaml` opens
_FORM = "write it as http://HOST:PORT, the address of the dashboard (port 8265 unless somebody moved it)"
_TIMEOUT_S = 5.0
_MAX_BYTES = 16 << 20
_SENDABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Token:
    """The token that Ray's clients send.

    Attributes:
        value: never to be printed.
        origin: the variable or file that it comes from.
    """

    value: str = field(repr=False)
    origin: str


def token_file(environment: Mapping[str, str], home: Path) -> Path:
    """Return the path of Ray's token file, which may not exist."""
    path = environment.get(AUTH_TOKEN_PATH)
    return Path(path).expanduser() if path else home / ".ray/auth_token"


def find_token(environment: Mapping[str, str], home: Path) -> Token | None:
    """Return the token as Ray chooses it: from the variable, else from the file."""
    if value := environment.get(AUTH_TOKEN, "").strip():
        return Token(value, AUTH_TOKEN)
    file = token_file(environment, home)
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Token(value, str(file)) if value else None


def enable_token_auth(environment: dict[str, str] | os._Environ[str], home: Path) -> None:
    """Turn on token authentication if there is a token; Ray's client sends none while RAY_AUTH_MODE is unset."""
    if AUTH_MODE not in environment and (environment.get(AUTH_TOKEN_PATH) or find_token(environment, home)):
        environment[AUTH_MODE] = "token"


def dashboard_url(address: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of the dashboard: `address`, RAY_API_SERVER_ADDRESS, RAY_ADDRESS if it is a URL, or the default.

    Raises:
        InputError: not an http URL of a machine, or one that contains a password.
    """
    by_ray = environment.get("RAY_ADDRESS", "")  # mostly the address of the control store, which takes no jobs
    url = (
        address
        or environment.get("RAY_API_SERVER_ADDRESS")
        or (by_ray if is_dashboard_url(by_ray) else "")
        or DEFAULT_ADDRESS
    )
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InputError("address: holds a user or password, which would be shown; leave it out, and use the token")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"address {url}: {_FORM}")
    return url.rstrip("/")


def is_dashboard_url(address: str) -> bool:
    """Return whether an address is that of a dashboard, not of Ray's control store."""
    return address.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is that of this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keeps the token at the address of the request."""

    def redirect_request(self, *_: Any) -> None:
        return None


def http_get(url: str, token: str | None) -> tuple[int, bytes]:
    """Return status and body of a GET.

    Raises:
        OSError: no answer, or a token that is no header value (the error of the library would show it).
        ValueError: no URL.
    """
    if token is not None and not _SENDABLE.fullmatch(token):
        raise OSError("the token holds white space or signs that are not ASCII")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `dashboard_url` has checked the scheme
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S) as answer:
            return int(answer.status), answer.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP ({type(error).__name__})") from None


def get_json(address: str, path: str, token: Token | None) -> Any:
    """Return the dashboard's JSON at a path.

    Raises:
        OSError: no answer, or a status other than 200.
    """
    status, body = http_get(address.rstrip("/") + path, token.value if token else None)
    if status != 200:
        raise OSError(f"{address}{path} answers {status}")
    return json.loads(body)
