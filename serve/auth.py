"""API-key authentication: keys from the environment or a file, checked before anything of a request is read."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from distilray.errors import InputError
from serve.errors import ERROR_TYPES, ApiError, ErrorBody, api_error_response
from serve.telemetry.requests import page_folder, request_path

KEYS, KEYS_FILE = "DISTILRAY_API_KEYS", "DISTILRAY_API_KEYS_FILE"
_MIN_CHARS = 16
# What anyone may read, beside the folders of the page and the documentation: probes, metrics, OpenAPI.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
_READS = frozenset({"GET", "HEAD"})
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer` and one of the keys"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "one of the keys"},
}
_UNAUTHORIZED = {
    "description": ERROR_TYPES[401],
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}


class ApiKeys:
    """The keys that are let in, as digests alone, so that no stack and no dump shows one."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    def accept(self, offered: bytes) -> bool:
        """Whether it is one of the keys; takes the same time for a right one as for a wrong one."""
        digest, found = hashlib.sha256(offered).digest(), False
        for each in self._digests:
            found |= hmac.compare_digest(each, digest)
        return found


def keys_from_environment(environ: Mapping[str, str]) -> ApiKeys | None:
    """The keys of `DISTILRAY_API_KEYS`, comma separated, and of the file that `DISTILRAY_API_KEYS_FILE` names.

    The file has one key per line. None when neither variable is set: then the service is open to all.

    Raises:
        InputError: a file that cannot be read, a key that is too short or not of printable ASCII, or no key at all
            although a variable is set.
    """
    if KEYS not in environ and KEYS_FILE not in environ:
        return None
    entries = [(f"{KEYS}: entry", number, key) for number, key in enumerate(environ.get(KEYS, "").split(","), 1)]
    if file := environ.get(KEYS_FILE, ""):
        entries += [(f"{KEYS_FILE}: {file}: line", number, key) for number, key in enumerate(_lines_of(file), 1)]
    keys = [_checked(f"{place} {number}", key.strip()) for place, number, key in entries if key.strip()]
    if not keys:
        source = " and ".join(name for name in (KEYS, KEYS_FILE) if name in environ)
        raise InputError(f"{source}: no key; give one of at least {_MIN_CHARS} characters, or unset it to serve anyone")
    return ApiKeys(keys)


def requires_key(method: str, path: str) -> bool:
    """Whether a request needs a key: all do but the reads of what anyone may see."""
    return method not in _READS or (path not in _OPEN and page_folder(path) is None)


class RequireKey:
    """401 for a request without a key, before its body is read and before it takes a place among the others."""

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
        found = False
        for offered in _offered(scope):
            found |= self._keys.accept(offered)
        return found


def add_security_schemes(api: FastAPI) -> None:
    """Puts the keys into the OpenAPI document of an application behind `RequireKey`, on what it guards."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        components = document.setdefault("components", {})
        components["securitySchemes"] = _SCHEMES
        components.setdefault("schemas", {}).setdefault("ErrorBody", ErrorBody.model_json_schema())
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if requires_key(method.upper(), path):
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["responses"].setdefault("401", _UNAUTHORIZED)
        return document

    api.openapi = openapi  # type: ignore[method-assign]


def _offered(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield credentials.strip()


def _lines_of(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise InputError(f"{KEYS_FILE}: {file}: {reason}") from None


def _checked(place: str, key: str) -> str:
    if len(key) < _MIN_CHARS:
        raise InputError(f"{place}: {len(key)} characters; a key has at least {_MIN_CHARS}")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"{place}: a key is of printable ASCII characters, without spaces")
    return key
