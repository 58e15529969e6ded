"""The HTTP API over the service: routes, error envelope, limits; runs under any ASGI server, with or without Ray."""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from distilray import __version__
from serve.admission.front import create_front
from serve.admission.keys import ApiKeys, document_keys
from serve.admission.limits import RequestEnvelope
from serve.errors import ERROR_TYPES, ApiError, error_response, unavailable
from serve.models import Models
from serve.page.routes import page_routes
from serve.schemas import AzureRequest, CandidateBody, ErrorBody, FillMaskRequest
from serve.telemetry.exposition import metrics_routes
from serve.telemetry.recorder import Telemetry
from serve.telemetry.requests import note

_NOT_JSON = "the body is not JSON"
_Candidates = list[CandidateBody]
_ERRORS_OF_POST: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": ERROR_TYPES[status]}
    for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}


class JsonRoute(APIRoute):
    """A route of POST for JSON bodies only, which refuses others before it parses anything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind the check."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            _check_media_type(request.headers)
            return await handler(request)

        return checked


def create_api(
    models: Models,
    *,
    telemetry: Telemetry | None = None,
    keys: ApiKeys | None = None,
    access_log: bool = False,
    sends_request_id: bool = True,
) -> FastAPI:
    """The whole API, limits included; the models start and stop with the application.

    `state.front` of the result is its front, for a server that has work of its own before the application.

    Args:
        models: not started.
        telemetry: counts requests, and is what /metrics shows; one for a single process when None.
        keys: that requests must bring; anyone may ask when None.
        access_log: a line in the log for every request, not only for failures of ours.
        sends_request_id: False behind a proxy that puts `x-request-id` on the answers itself.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await models.start()
        yield
        await models.close()

    telemetry = telemetry or Telemetry(replica="local")
    # The stock pages of FastAPI load their scripts from a CDN, which closed networks do not reach.
    # No redirect to the path without its last slash either: its address would be made of the `host` of the request.
    api = FastAPI(
        title="fill-mask",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    api.include_router(_fill_mask_routes(models))
    api.include_router(_state_routes(models))
    api.include_router(metrics_routes(telemetry))
    api.include_router(page_routes())
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _validation_error)
    front = create_front(models.default.config.limits, telemetry=telemetry, keys=keys, access_log=access_log)
    api.state.front = front
    if keys is not None:
        document_keys(api)
    # Outermost last.
    api.add_middleware(front)
    api.add_middleware(RequestEnvelope, sends_id=sends_request_id)
    return api


def _fill_mask_routes(models: Models) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, responses=_ERRORS_OF_POST)

    async def answer(request: Request, body: AzureRequest | FillMaskRequest) -> JSONResponse:
        service, queries = await models.service(body.model), body.queries()
        name = body.model or models.names[0]
        note(request.scope, model=name)
        served = await service.answer(queries)
        times = {"queue_ms": served.queue_s * 1000, "inference_ms": served.inference_s * 1000}
        note(request.scope, model=name, items=len(queries), tokens=served.tokens, **times)
        headers = {
            "x-queue-time": f"{times['queue_ms']:.1f}",
            "x-inference-time": f"{times['inference_ms']:.1f}",
            "x-model-revision": service.model.revision,
        }
        return JSONResponse(body.response(served.answers), headers=headers)

    async def fill_mask(request: Request, body: FillMaskRequest) -> JSONResponse:
        """Candidates for the masks of one text or of several; times in the headers are milliseconds."""
        return await answer(request, body)

    async def score(request: Request, body: AzureRequest) -> JSONResponse:
        """The best token for every text, those of several masks joined by a comma."""
        return await answer(request, body)

    shapes = _Candidates | list[_Candidates] | list[_Candidates | list[_Candidates]]
    router.add_api_route("/v1/fill-mask", fill_mask, methods=["POST"], response_model=shapes)
    for path in ("/score", "/"):
        router.add_api_route(
            path,
            score,
            methods=["POST"],
            response_model=list[str] | list[dict[str, str]],
            operation_id=f"score_{path.strip('/') or 'root'}",
        )
    return router


def _state_routes(models: Models) -> APIRouter:
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"model": ErrorBody}})
    async def readyz() -> dict[str, str]:
        """The model is loaded and warmed up, its queue is below the bound, and requests are being answered."""
        if not models.default.ready:
            raise unavailable("the model is not ready for more work; try again later", retry_after_s=1)
        return {"status": "ready"}

    @router.get("/info")
    async def info() -> dict[str, Any]:
        """Names of the models; revision, dtype and limits of the default one."""
        return models.info()

    return router


def _check_media_type(headers: Mapping[str, str]) -> None:
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip("\"'")
    if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8", "utf8"}:
        raise ApiError(415, "send content-type: application/json, in UTF-8")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "send the body without content-encoding")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    error_type = getattr(error, "error_type", None) or ERROR_TYPES.get(status, "Http")
    # FastAPI's own words where the parser stops at depth, digits or encoding, and not at the syntax.
    message = _NOT_JSON if status == 400 else str(error.detail)
    return error_response(request.scope, status, message, error_type, error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    kinds = {problem["type"] for problem in problems}
    if "json_invalid" in kinds:
        return error_response(request.scope, 400, _NOT_JSON, ERROR_TYPES[400])
    if "string_unicode" in kinds:
        message = "a text holds half of a surrogate pair, which is not text; send the whole character"
        return error_response(request.scope, 422, message, "Tokenizer")
    return error_response(request.scope, 422, _describe(problems[0]), ERROR_TYPES[422])


def _describe(problem: Mapping[str, Any]) -> str:
    """Place and message of a problem; an unknown key is input and is not repeated."""
    if problem["type"] == "extra_forbidden":
        return f"{_place(problem['loc'][1:-1])}unknown key"
    if problem["loc"] == ("body",) and problem["type"] == "missing":
        return "the body is empty; send JSON"
    return f"{_place(problem['loc'][1:])}{problem['msg'].removeprefix('Value error, ')}"


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(str(part) for part in location)}: " if location else ""
