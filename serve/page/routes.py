"""Routes for people: the page that tries the model out at `/ui`, and the documentation of the API at `/docs`.

The addresses inside the pages are relative, so that they hold wherever the application is mounted.
"""

from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from starlette.responses import RedirectResponse

from serve.page.assets import Asset

_METHODS = ["GET", "HEAD"]
_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"
# Address -> file of this folder and its media type.
_OURS = {
    "/ui": ("index.html", _HTML),
    "/ui/page.js": ("page.js", _SCRIPT),
    "/ui/page.css": ("page.css", _STYLE),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", _HTML),
    "/docs/docs.js": ("docs.js", _SCRIPT),
}
# FastAPI's own page takes Swagger UI from a CDN and starts it by an inline script. This package brings the files, and
# docs.js starts them.
_SWAGGER_UI = "fastapi_offline"
_SWAGGER_FILES = {
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", _SCRIPT),
    "/docs/swagger-ui.css": ("swagger-ui.css", _STYLE),
}


def page_routes() -> APIRouter:
    """The pages and their files, which are read here, once."""
    router = APIRouter(include_in_schema=False)
    ours, swagger = resources.files("serve.page"), resources.files(_SWAGGER_UI) / "static"
    for path, (name, media_type) in _OURS.items():
        _add(router, path, ours / name, media_type)
    for path, (name, media_type) in _SWAGGER_FILES.items():
        _add(router, path, swagger / name, media_type)
    router.add_api_route("/", _to_the_page, methods=_METHODS)
    return router


def _add(router: APIRouter, path: str, file: Traversable, media_type: str) -> None:
    router.add_api_route(path, Asset(file.read_bytes(), media_type).respond, methods=_METHODS)


async def _to_the_page() -> RedirectResponse:
    return RedirectResponse("ui", 307)
