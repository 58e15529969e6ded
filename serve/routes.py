"""HTTP API: the table of tasks with their endpoints, and the FastAPI application built from it.

The application runs under any ASGI server, with or without Ray.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from distilray import __version__
from distilray.config.serving import LimitsConfig
from distilray.errors import InputError
from distilray.inference.tasks.base import AnyTask
from distilray.inference.tasks.fill_mask import FillMask
from serve.auth import ApiKeys, add_security_schemes
from serve.budget import Budget, FillMaskBudget
from serve.errors import ERROR_TYPES, ErrorBody, http_error, unavailable, validation_error
from serve.ingress import Gateway
from serve.limits import JsonRoute, RequestEnvelope
from serve.models import Models
from serve.page.routes import page_routes
from serve.schemas import AnyRequest, AzureRequest, CandidateBody, FillMaskRequest, fill_in_limits
from serve.telemetry.metrics import Telemetry
from serve.telemetry.requests import annotate

_POST_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": ERROR_TYPES[status]}
    for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}
_METRICS_FORMAT = "Metrics in Prometheus' text format, or in OpenMetrics format if `accept` requests it."


class Tag(NamedTuple):
    """Section of /docs."""

    name: str
    description: str


class Endpoint(NamedTuple):
    """Path of a task with the format of its requests.

    Attributes:
        path: path below the mount point of the application.
        request: schema of the body, with methods that create the queries and the response.
        response: type of the response; like the remaining attributes, it is only used in the OpenAPI document.
    """

    path: str
    request: Any
    response: Any
    tag: Tag
    summary: str
    description: str
    operation_id: str | None = None


class TaskRoutes(NamedTuple):
    """Task with its endpoints and the limits of a request."""

    task: type[AnyTask]
    endpoints: tuple[Endpoint, ...]
    budget: Budget = Budget()


_Candidates = list[CandidateBody]
_CANDIDATES = _Candidates | list[_Candidates] | list[_Candidates | list[_Candidates]]
_BEST_TOKENS = list[str] | list[dict[str, str]]
_CANDIDATES_TAG = Tag("Candidates", "The most probable tokens for each mask, in the format of Hugging Face.")
_BEST_TAG = Tag("Best token", "The most probable token for each mask, in the formats of Azure.")
_HEALTH_TAG = Tag("Health", "Probes for load balancers and process managers.")
_SERVICE_TAG = Tag("Service", "The models and limits of the service, and its metrics.")

# To serve another task, add a module to `distilray.inference.tasks` and an entry here.
TASK_ROUTES: dict[str, TaskRoutes] = {
    FillMask.name: TaskRoutes(
        FillMask,
        (
            Endpoint(
                "/v1/fill-mask",
                FillMaskRequest,
                _CANDIDATES,
                _CANDIDATES_TAG,
                "Rank candidates for each mask",
                "Candidates for the masks of one or several texts. The times in the headers are in milliseconds.",
                "fill_mask_v1_fill_mask_post",
            ),
            Endpoint(
                "/score",
                AzureRequest,
                _BEST_TOKENS,
                _BEST_TAG,
                "Predict the best token of each text",
                "The best token for each text; for several masks, the best tokens joined by commas.",
                "score_score",
            ),
            Endpoint(
                "/",
                AnyRequest,
                _CANDIDATES | _BEST_TOKENS,
                _CANDIDATES_TAG,
                "Answer in the format of the request",
                "Candidates for `inputs`, as Hugging Face's clients expect; the best tokens for `input_data`.",
                "score_root",
            ),
        ),
        FillMaskBudget(),
    ),
}


def routes_for_task(task: str) -> TaskRoutes:
    """Return the table entry of a task.

    Raises:
        InputError: the task does not exist.
    """
    if task not in TASK_ROUTES:
        raise InputError(f"task {task}: choose one of {', '.join(TASK_ROUTES)}")
    return TASK_ROUTES[task]


def create_api(
    models: Models,
    *,
    telemetry: Telemetry | None = None,
    keys: ApiKeys | None = None,
    access_log: bool = False,
    sends_request_id: bool = True,
) -> FastAPI:
    """Create the API with all its limits; the models start and stop with the application.

    `state.gateway` of the application is its gateway, for servers that process requests before the application.

    Args:
        models: models that have not been started.
        telemetry: metrics of requests, exposed at /metrics; None creates metrics for a single process.
        keys: valid API keys; None disables authentication.
        access_log: log every request, not only server errors.
        sends_request_id: False behind a server that adds `x-request-id` to responses itself.
    """
    telemetry, task_routes = telemetry or Telemetry(replica="local"), routes_for_task(models.task)
    api = _empty_api(models, task_routes)
    routers = (_task_router(models, task_routes), _service_router(models), metrics_routes(telemetry), page_routes())
    for router in routers:
        api.include_router(router)
    api.add_exception_handler(HTTPException, http_error)
    api.add_exception_handler(RequestValidationError, validation_error)
    limits, paths = models.default.config.limits, frozenset(endpoint.path for endpoint in task_routes.endpoints)
    _complete_openapi(api, limits, is_protected=keys is not None)
    api.state.gateway = gateway = Gateway(limits, paths=paths, telemetry=telemetry, keys=keys, access_log=access_log)
    # Starlette applies the last middleware first.
    api.add_middleware(gateway)
    api.add_middleware(RequestEnvelope, sends_id=sends_request_id)
    return api


def _empty_api(models: Models, task_routes: TaskRoutes) -> FastAPI:
    """Create an application without routes that starts and stops the models."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await models.start()
        yield
        await models.close()

    tags = dict.fromkeys([*(endpoint.tag for endpoint in task_routes.endpoints), _HEALTH_TAG, _SERVICE_TAG])
    # Disable FastAPI's documentation pages, because they load scripts from a CDN, which closed networks cannot reach.
    # Disable redirects between paths with and without a final slash, because they would contain the `host` header.
    return FastAPI(
        title=models.task,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_tags=[tag._asdict() for tag in tags],
        lifespan=lifespan,
    )


def _task_router(models: Models, task_routes: TaskRoutes) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, responses=_POST_ERRORS)
    for endpoint in task_routes.endpoints:
        router.add_api_route(
            endpoint.path,
            _create_handler(models, task_routes.budget, endpoint),
            methods=["POST"],
            response_model=endpoint.response,
            operation_id=endpoint.operation_id,
            tags=[endpoint.tag.name],
            summary=endpoint.summary,
            description=endpoint.description,
        )
    return router


def _create_handler(models: Models, budget: Budget, endpoint: Endpoint) -> Callable[..., Coroutine[Any, Any, Response]]:
    async def handle(request: Request, body: Any) -> JSONResponse:
        service, queries = await models.service(body.model), body.queries()
        name = body.model or models.names[0]
        annotate(request.scope, model=name)
        answers, result = await service.answer(queries, budget)
        times = {"queue_ms": result.queue_s * 1000, "inference_ms": result.inference_s * 1000}
        annotate(request.scope, model=name, items=len(queries), tokens=result.tokens, **times)
        headers = {
            "x-queue-time": f"{times['queue_ms']:.1f}",
            "x-inference-time": f"{times['inference_ms']:.1f}",
            "x-model-revision": service.task.revision,
        }
        return JSONResponse(body.response(answers), headers=headers)

    handle.__annotations__["body"] = endpoint.request  # FastAPI reads the schema from here
    return handle


def _service_router(models: Models) -> APIRouter:
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=[_HEALTH_TAG.name], summary="Check that the process responds")
    async def healthz() -> dict[str, str]:
        """The process responds to requests."""
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        responses={503: {"model": ErrorBody}},
        tags=[_HEALTH_TAG.name],
        summary="Check that the service accepts requests",
    )
    async def readyz() -> dict[str, str]:
        """The model is loaded and warmed up, its queue is not full, and requests make progress."""
        if not models.default.ready:
            raise unavailable("the model is not ready for requests; try again later", retry_after_s=1)
        return {"status": "ready"}

    @router.get("/info", tags=[_SERVICE_TAG.name], summary="Describe the models and limits")
    async def info() -> dict[str, Any]:
        """Names of the models, and revision, dtype and limits of the default model."""
        return models.info()

    return router


def metrics_routes(telemetry: Telemetry) -> APIRouter:
    """Create `GET /metrics`, which exposes the metrics of the responding replica to Prometheus.

    With several replicas, each call may reach another one; the label `replica` identifies it. The metrics ports of
    Ray's nodes expose the metrics of all replicas, with the prefix `ray_`.
    """
    router = APIRouter()
    responses = {200: {"description": _METRICS_FORMAT, "content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get(
        "/metrics",
        response_class=Response,
        responses=responses,  # type: ignore[arg-type]
        tags=[_SERVICE_TAG.name],
        summary="Expose the metrics of one replica",
    )
    def metrics(request: Request) -> Response:
        """Metrics of the responding replica; Ray's metrics ports expose those of all replicas, prefixed with `ray_`."""
        body, media_type = telemetry.replica.expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return router


def _complete_openapi(api: FastAPI, limits: LimitsConfig, *, is_protected: bool) -> None:
    """Add the limits and the authentication to the OpenAPI document of an application."""
    make_document = api.openapi

    def openapi() -> dict[str, Any]:
        document = make_document()
        fill_in_limits(document, limits)
        if is_protected:
            add_security_schemes(document)
        return document

    api.openapi = openapi  # type: ignore[method-assign]
