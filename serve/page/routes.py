"""Web pages: `/ui` to try the model, and the API documentation at `/docs`.

All links in the pages are relative, so that the application can be mounted under any path.
"""

import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

_METHODS = ["GET", "HEAD"]
_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"
# URL path -> file in this folder and its media type.
_OURS = {
    "/ui": ("index.html", _HTML),
    "/ui/page.js": ("page.js", _SCRIPT),
    "/ui/page.css": ("page.css", _STYLE),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", _HTML),
    "/docs/docs.js": ("docs.js", _SCRIPT),
}
# FastAPI's own page loads Swagger UI from a CDN and starts it with an inline script. This package contains the files,
# and docs.js starts them.
_SWAGGER_UI = "fastapi_offline"
_SWAGGER_FILES = {
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", _SCRIPT),
    "/docs/swagger-ui.css": ("swagger-ui.css", _STYLE),
}
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "cache-control": "no-cache",  # browsers keep the file, but check for a new version each time
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Asset:
    """File served from memory, with headers that restrict its page to this origin."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self._body, self._media_type = body, media_type
        self._etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        self._headers = {**_HEADERS, "etag": self._etag}

    async def respond(self, request: Request) -> Response:
        """Return the file, or 304 if the browser already has this version."""
        known_tags = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self._etag in known_tags:
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, media_type=self._media_type, headers=self._headers)


def page_routes() -> APIRouter:
    """Create the routes of the pages, and read their files into memory."""
    router = APIRouter(include_in_schema=False)
    ours, swagger = resources.files("serve.page"), resources.files(_SWAGGER_UI) / "static"
    for path, (name, media_type) in _OURS.items():
        body = (ours / name).read_bytes()
        _add(router, path, body, media_type)
        if media_type == _HTML:  # relative links on `/ui/` and `/docs/` start one level deeper
            _add(router, f"{path}/", re.sub(rb'\b(href|src)="', rb'\1="../', body), media_type)
    for path, (name, media_type) in _SWAGGER_FILES.items():
        _add(router, path, (swagger / name).read_bytes(), media_type)
    router.add_api_route("/", _redirect_to_page, methods=_METHODS)
    return router


def _add(router: APIRouter, path: str, body: bytes, media_type: str) -> None:
    router.add_api_route(path, Asset(body, media_type).respond, methods=_METHODS)


async def _redirect_to_page() -> RedirectResponse:
    return RedirectResponse("ui", 307)
