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
from distilray.config.serving import LimitsConfig
from serve.admission.front import create_front
from serve.admission.keys import ApiKeys, document_keys
from serve.admission.limits import RequestEnvelope
from serve.errors import ERROR_TYPES, ApiError, describe_problem, error_response, unavailable
from serve.models import Models
from serve.page.routes import page_routes
from serve.schemas import AnyRequest, AzureRequest, CandidateBody, ErrorBody, FillMaskRequest, state_limits
from serve.telemetry.exposition import metrics_routes
from serve.telemetry.recorder import Telemetry
from serve.telemetry.requests import note

_NOT_JSON = "the body is not JSON"
# Texts with more brackets have too many tokens.
_MAX_CONTAINERS = 50_000
_Candidates = list[CandidateBody]
_ERRORS_OF_POST: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": ERROR_TYPES[status]}
    for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}
# Tags of the operations, which are the sections of /docs.
_TAGS = {
    "Candidates": "The most probable tokens for each mask, in the format of Hugging Face.",
    "Best token": "The most probable token for each mask, in the formats of Azure.",
    "Health": "Probes for load balancers and process managers.",
    "Service": "The models and limits of the service, and its metrics.",
}


class JsonRequest(Request):
    """A request whose body is parsed only if it has few lists and objects, which cost a hundred times their bytes."""

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            ApiError: 422 for more lists and objects than any valid request has.
        """
        body = await self.body()
        containers = body.count(b"]") + body.count(b"}")
        if containers > _MAX_CONTAINERS:
            message = f"{containers:,} closing brackets; send at most {_MAX_CONTAINERS:,}"
            raise ApiError(422, message, error_type="TooExpensive")
        return await super().json()


class JsonRoute(APIRoute):
    """A route of POST for JSON bodies only, which refuses others before it parses anything."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind the check."""
        handler = super().get_route_handler()

        async def checked(request: Request) -> Response:
            _check_media_type(request.headers)
            return await handler(JsonRequest(request.scope, request.receive))

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
        openapi_tags=[{"name": name, "description": description} for name, description in _TAGS.items()],
        lifespan=lifespan,
    )
    api.include_router(_fill_mask_routes(models))
    api.include_router(_state_routes(models))
    api.include_router(metrics_routes(telemetry))
    api.include_router(page_routes())
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(RequestValidationError, _validation_error)
    limits = models.default.config.limits
    _document_limits(api, limits)
    front = create_front(limits, telemetry=telemetry, keys=keys, access_log=access_log)
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
        answers, served = await service.answer(queries)
        times = {"queue_ms": served.queue_s * 1000, "inference_ms": served.inference_s * 1000}
        note(request.scope, model=name, items=len(queries), tokens=served.tokens, **times)
        headers = {
            "x-queue-time": f"{times['queue_ms']:.1f}",
            "x-inference-time": f"{times['inference_ms']:.1f}",
            "x-model-revision": service.model.revision,
        }
        return JSONResponse(body.response(answers), headers=headers)

    async def fill_mask(request: Request, body: FillMaskRequest) -> JSONResponse:
        """Candidates for the masks of one text or of several; times in the headers are milliseconds."""
        return await answer(request, body)

    async def score(request: Request, body: AzureRequest) -> JSONResponse:
        """The best token for every text, those of several masks joined by a comma."""
        return await answer(request, body)

    async def either(request: Request, body: AnyRequest) -> JSONResponse:
        """Candidates for `inputs`, as Hugging Face's clients expect them; the best tokens for `input_data`."""
        return await answer(request, body)

    candidates = _Candidates | list[_Candidates] | list[_Candidates | list[_Candidates]]
    best_tokens = list[str] | list[dict[str, str]]
    router.add_api_route(
        "/v1/fill-mask",
        fill_mask,
        methods=["POST"],
        response_model=candidates,
        tags=["Candidates"],
        summary="Rank candidates for each mask",
    )
    router.add_api_route(
        "/score",
        score,
        methods=["POST"],
        response_model=best_tokens,
        operation_id="score_score",
        tags=["Best token"],
        summary="Predict the best token of each text",
    )
    router.add_api_route(
        "/",
        either,
        methods=["POST"],
        response_model=candidates | best_tokens,
        operation_id="score_root",
        tags=["Candidates"],
        summary="Answer in the format of the request",
    )
    return router


def _state_routes(models: Models) -> APIRouter:
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=["Health"], summary="Check that the process responds")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        responses={503: {"model": ErrorBody}},
        tags=["Health"],
        summary="Check that the service accepts requests",
    )
    async def readyz() -> dict[str, str]:
        """The model is loaded and warmed up, its queue is below the bound, and requests are being answered."""
        if not models.default.ready:
            raise unavailable("the model is not ready for more work; try again later", retry_after_s=1)
        return {"status": "ready"}

    @router.get("/info", tags=["Service"], summary="Describe the models and limits")
    async def info() -> dict[str, Any]:
        """Names of the models; revision, dtype and limits of the default one."""
        return models.info()

    return router


def _document_limits(api: FastAPI, limits: LimitsConfig) -> None:
    make_document = api.openapi

    def openapi() -> dict[str, Any]:
        document = make_document()
        state_limits(document, limits)
        return document

    api.openapi = openapi  # type: ignore[method-assign]


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
    error_type = "Tokenizer" if "string_unicode" in kinds else ERROR_TYPES[422]
    return error_response(request.scope, 422, describe_problem(problems), error_type)
