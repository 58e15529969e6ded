"""Access to a Ray cluster: dashboard address, authentication token and HTTP requests."""

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
DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # forwarded by `ray dashboard cluster.yaml`
GENERATE_COMMAND = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
_EXPECTED_FORM = "write the address of the dashboard as http://HOST:PORT (its default port is 8265)"
_TIMEOUT_S = 5.0
_MAX_BYTES = 16 << 20
_HEADER_VALUE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Token:
    """Authentication token of a Ray cluster.

    Attributes:
        value: must never be printed.
        origin: name of the variable or path of the file that contains it.
    """

    value: str = field(repr=False)
    origin: str


def token_file(environment: Mapping[str, str], home: Path) -> Path:
    """Return the path of Ray's token file, whether or not it exists."""
    path = environment.get(AUTH_TOKEN_PATH)
    return Path(path).expanduser() if path else home / ".ray/auth_token"


def find_token(environment: Mapping[str, str], home: Path) -> Token | None:
    """Return the token that Ray would use: the one in RAY_AUTH_TOKEN, else the one in the token file."""
    if value := environment.get(AUTH_TOKEN, "").strip():
        return Token(value, AUTH_TOKEN)
    file = token_file(environment, home)
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Token(value, str(file)) if value else None


def enable_token_auth(environment: dict[str, str] | os._Environ[str], home: Path) -> None:
    """Set RAY_AUTH_MODE if there is a token; Ray's client does not send one while the variable is unset."""
    if AUTH_MODE not in environment and (environment.get(AUTH_TOKEN_PATH) or find_token(environment, home)):
        environment[AUTH_MODE] = "token"


def dashboard_url(address: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of the dashboard.

    Uses the first of these that is set: `address`, RAY_API_SERVER_ADDRESS, RAY_ADDRESS (if it is a URL), the default.

    Raises:
        InputError: the address is not an HTTP URL, or it contains a password.
    """
    ray_address = environment.get("RAY_ADDRESS", "")  # usually the address of the GCS, which does not accept jobs
    url = (
        address
        or environment.get("RAY_API_SERVER_ADDRESS")
        or (ray_address if is_dashboard_url(ray_address) else "")
        or DEFAULT_ADDRESS
    )
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InputError("address: contains a user name or password, which would be printed; use the token instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"address {url}: {_EXPECTED_FORM}")
    return url.rstrip("/")


def is_dashboard_url(address: str) -> bool:
    """Return whether an address refers to a dashboard rather than to Ray's GCS."""
    return address.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address refers to this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect, so that the token is not sent to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def http_get(url: str, token: str | None) -> tuple[int, bytes]:
    """Send a GET request and return the status and the body.

    Raises:
        OSError: no response, or the token is not a valid header value (urllib's own error would print it).
        ValueError: invalid URL.
    """
    if token is not None and not _HEADER_VALUE.fullmatch(token):
        raise OSError("the token contains white space or non-ASCII characters")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `dashboard_url` has checked the scheme
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S) as response:
            return int(response.status), response.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP response ({type(error).__name__})") from None


def get_json(address: str, path: str, token: Token | None) -> Any:
    """Return the JSON document that the dashboard serves at a path.

    Raises:
        OSError: no response, or a status other than 200.
    """
    status, body = http_get(address.rstrip("/") + path, token.value if token else None)
    if status != 200:
        raise OSError(f"{address}{path} returned {status}")
    return json.loads(body)
