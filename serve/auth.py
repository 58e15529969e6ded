"""API-key authentication, with keys from the environment or a file, before the body of a request is read."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from distilray.errors import InputError
from serve.errors import ERROR_TYPES, ApiError, ErrorBody, api_error_response
from serve.telemetry.requests import page_folder, request_path

KEYS, KEYS_FILE = "DISTILRAY_API_KEYS", "DISTILRAY_API_KEYS_FILE"
_MIN_CHARS = 16
# Paths that need no key for reading, in addition to the files of the page and the documentation.
_PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
_READ_METHODS = frozenset({"GET", "HEAD"})
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer` and one of the keys"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "one of the keys"},
}
_UNAUTHORIZED = {
    "description": ERROR_TYPES[401],
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}


class ApiKeys:
    """Set of valid keys, stored as digests so that no traceback or memory dump shows a key."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def contains(self, key: bytes) -> bool:
        """Return True if the key is valid; the comparison takes the same time for valid and invalid keys."""
        digest, is_valid = hashlib.sha256(key).digest(), False
        for valid_digest in self._digests:
            is_valid |= hmac.compare_digest(valid_digest, digest)
        return is_valid


def keys_from_environment(environ: Mapping[str, str]) -> ApiKeys | None:
    """Read the keys from the environment; return None if neither variable is set, which disables authentication.

    `DISTILRAY_API_KEYS` holds keys separated by commas; `DISTILRAY_API_KEYS_FILE` names a file with one key per line.

    Raises:
        InputError: the file cannot be read, a key is too short or not printable ASCII, or a variable is set but
            contains no key.
    """
    if KEYS not in environ and KEYS_FILE not in environ:
        return None
    entries = [(f"{KEYS}: entry", number, key) for number, key in enumerate(environ.get(KEYS, "").split(","), 1)]
    if file := environ.get(KEYS_FILE, ""):
        entries += [(f"{KEYS_FILE}: {file}: line", number, key) for number, key in enumerate(_read_lines(file), 1)]
    keys = [_check_key(f"{source} {number}", key.strip()) for source, number, key in entries if key.strip()]
    if not keys:
        names = " and ".join(name for name in (KEYS, KEYS_FILE) if name in environ)
        raise InputError(f"{names}: no key; set one of at least {_MIN_CHARS} characters, or unset it to serve anyone")
    return ApiKeys(keys)


def requires_key(method: str, path: str) -> bool:
    """Return True unless a request only reads a public path."""
    return method not in _READ_METHODS or (path not in _PUBLIC and page_folder(path) is None)


class RequireKey:
    """Middleware that rejects requests without a valid key with 401, before their bodies are read or queued."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not requires_key(scope["method"], request_path(scope)) or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "send a key: authorization: Bearer KEY, or x-api-key: KEY", headers={"www-authenticate": "Bearer"}
        )
        await api_error_response(scope, error)(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        is_valid = False
        for key in _keys_in_headers(scope):
            is_valid |= self._keys.contains(key)
        return is_valid


def add_security_schemes(document: dict[str, Any]) -> None:
    """Add the authentication of `RequireKey` to an OpenAPI document."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    components.setdefault("schemas", {}).setdefault("ErrorBody", ErrorBody.model_json_schema())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if requires_key(method.upper(), path):
                operation["security"] = [{name: []} for name in _SCHEMES]
                operation["responses"].setdefault("401", _UNAUTHORIZED)


def _keys_in_headers(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield credentials.strip()


def _read_lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{KEYS_FILE}: {file}: {reason}") from None


def _check_key(source: str, key: str) -> str:
    if len(key) < _MIN_CHARS:
        raise InputError(f"{source}: {len(key)} characters; use at least {_MIN_CHARS}")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"{source}: not a valid key; use printable ASCII characters without spaces")
    return key
