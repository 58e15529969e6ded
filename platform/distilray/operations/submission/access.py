"""Where the cluster is, and whether to show it the token. Decided before Ray's client is loaded, which reads both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from distilray.errors import InputError
from distilray.operations.ray_token import MODE, PATH, VALUE, token_file

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # what `ray dashboard cluster.yaml` opens
_FORM = "write it as http://HOST:PORT, the address of the dashboard (port 8265 unless somebody moved it)"


def choose_address(given: str | None, environment: Mapping[str, str]) -> str:
    """The URL of the jobs API: as given, of RAY_API_SERVER_ADDRESS, of RAY_ADDRESS if that is a URL, or the default.

    Raises:
        InputError: not an http URL of a machine, or one that holds a password.
    """
    by_ray = environment.get("RAY_ADDRESS", "")  # mostly the address of the control store, which takes no jobs
    named = given or environment.get("RAY_API_SERVER_ADDRESS") or (by_ray if by_ray.startswith("http") else "")
    address = named or DEFAULT_ADDRESS
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise InputError("address: holds a user or password, which would be shown; leave it out, and use the token")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"address {address}: {_FORM}")
    return address.rstrip("/")


def choose_authentication(environment: dict[str, str] | os._Environ[str], home: Path) -> None:
    """Turns on token authentication where there is a token and nobody has said otherwise.

    Ray's client sends no token while RAY_AUTH_MODE is unset, even where there is one, and gets 401.
    """
    if MODE not in environment and _has_token(environment, home):
        environment[MODE] = "token"


def _has_token(environment: Mapping[str, str], home: Path) -> bool:
    if environment.get(VALUE) or environment.get(PATH):
        return True
    file = token_file(environment, home)
    return file.is_file() and file.stat().st_size > 0
