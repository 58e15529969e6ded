"""The HTTP API over the service: a table of tasks with their routes, and the application that is made of it.

It runs under any ASGI server, with or without Ray.
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

_ERRORS_OF_POST: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": ERROR_TYPES[status]}
    for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}


_METRICS_FORMAT = "Metrics in Prometheus' text format, or OpenMetrics when `accept` asks for it."


class Tag(NamedTuple):
    """A section of /docs."""

    name: str
    description: str


class Endpoint(NamedTuple):
    """A path of a task, and the form in which it is asked there.

    Attributes:
        path: below the mount of the application.
        request: schema of the body: makes the queries, and shapes the answers to them.
        response: type of the response, for the OpenAPI document, as all that follows.
    """

    path: str
    request: Any
    response: Any
    tag: Tag
    summary: str
    description: str
    operation_id: str | None = None


class TaskRoutes(NamedTuple):
    """A row of the table: a task, its forms, and the budget of a request."""

    task: type[AnyTask]
    forms: tuple[Endpoint, ...]
    budget: Budget = Budget()


_Candidates = list[CandidateBody]
_CANDIDATES = _Candidates | list[_Candidates] | list[_Candidates | list[_Candidates]]
_BEST_TOKENS = list[str] | list[dict[str, str]]
_CANDIDATES_TAG = Tag("Candidates", "The most probable tokens for each mask, in the format of Hugging Face.")
_BEST_TAG = Tag("Best token", "The most probable token for each mask, in the formats of Azure.")
_HEALTH_TAG = Tag("Health", "Probes for load balancers and process managers.")
_SERVICE_TAG = Tag("Service", "The models and limits of the service, and its metrics.")

# Name of a task -> its routes. A new task is a module of `distilray.inference.tasks` and a row here.
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
                "Candidates for the masks of one text or of several; times in the headers are milliseconds.",
                "fill_mask_v1_fill_mask_post",
            ),
            Endpoint(
                "/score",
                AzureRequest,
                _BEST_TOKENS,
                _BEST_TAG,
                "Predict the best token of each text",
                "The best token for every text, those of several masks joined by a comma.",
                "score_score",
            ),
            Endpoint(
                "/",
                AnyRequest,
                _CANDIDATES | _BEST_TOKENS,
                _CANDIDATES_TAG,
                "Answer in the format of the request",
                "Candidates for `inputs`, as Hugging Face's clients expect them; the best tokens for `input_data`.",
                "score_root",
            ),
        ),
        FillMaskBudget(),
    ),
}


def routes_for_task(task: str) -> TaskRoutes:
    """Return the row of a task.

    Raises:
        InputError: there is none.
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
    """The whole API, limits included; the models start and stop with the application.

    `state.front` of the result is its front, for a server that has work of its own before the application.

    Args:
        models: not started.
        telemetry: counts requests, and is what /metrics shows; one for a single process when None.
        keys: that requests must bring; anyone may ask when None.
        access_log: a line in the log for every request, not only for failures of ours.
        sends_request_id: False behind a proxy that puts `x-request-id` on the answers itself.
    """
    telemetry, row = telemetry or Telemetry(replica="local"), routes_for_task(models.task)
    api = _bare_api(models, row)
    for router in (_task_routes(models, row), _state_routes(models), metrics_routes(telemetry), page_routes()):
        api.include_router(router)
    api.add_exception_handler(HTTPException, http_error)
    api.add_exception_handler(RequestValidationError, validation_error)
    limits, paths = models.default.config.limits, frozenset(form.path for form in row.forms)
    _document_limits(api, limits)
    api.state.gateway = gateway = Gateway(limits, paths=paths, telemetry=telemetry, keys=keys, access_log=access_log)
    if keys is not None:
        add_security_schemes(api)
    # Outermost last.
    api.add_middleware(gateway)
    api.add_middleware(RequestEnvelope, sends_id=sends_request_id)
    return api


def _bare_api(models: Models, row: TaskRoutes) -> FastAPI:
    """Return an application without routes that starts and stops the models."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await models.start()
        yield
        await models.close()

    tags = dict.fromkeys([*(form.tag for form in row.forms), _HEALTH_TAG, _SERVICE_TAG])
    # The stock pages of FastAPI load their scripts from a CDN, which closed networks do not reach.
    # No redirect to the path without its last slash either: its address would be made of the `host` of the request.
    return FastAPI(
        title=models.task,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_tags=[tag._asdict() for tag in tags],
        lifespan=lifespan,
    )


def _task_routes(models: Models, row: TaskRoutes) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, responses=_ERRORS_OF_POST)
    for form in row.forms:
        router.add_api_route(
            form.path,
            _endpoint(models, row.budget, form),
            methods=["POST"],
            response_model=form.response,
            operation_id=form.operation_id,
            tags=[form.tag.name],
            summary=form.summary,
            description=form.description,
        )
    return router


def _endpoint(models: Models, budget: Budget, form: Endpoint) -> Callable[..., Coroutine[Any, Any, Response]]:
    async def answer(request: Request, body: Any) -> JSONResponse:
        service, queries = await models.service(body.model), body.queries()
        name = body.model or models.names[0]
        annotate(request.scope, model=name)
        answers, served = await service.answer(queries, budget)
        times = {"queue_ms": served.queue_s * 1000, "inference_ms": served.inference_s * 1000}
        annotate(request.scope, model=name, items=len(queries), tokens=served.tokens, **times)
        headers = {
            "x-queue-time": f"{times['queue_ms']:.1f}",
            "x-inference-time": f"{times['inference_ms']:.1f}",
            "x-model-revision": service.task.revision,
        }
        return JSONResponse(body.response(answers), headers=headers)

    answer.__annotations__["body"] = form.request  # FastAPI reads the schema there
    return answer


def _state_routes(models: Models) -> APIRouter:
    router = APIRouter()

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=[_HEALTH_TAG.name], summary="Check that the process responds")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        responses={503: {"model": ErrorBody}},
        tags=[_HEALTH_TAG.name],
        summary="Check that the service accepts requests",
    )
    async def readyz() -> dict[str, str]:
        """The model is loaded and warmed up, its queue is below the bound, and requests are being answered."""
        if not models.default.ready:
            raise unavailable("the model is not ready for more work; try again later", retry_after_s=1)
        return {"status": "ready"}

    @router.get("/info", tags=[_SERVICE_TAG.name], summary="Describe the models and limits")
    async def info() -> dict[str, Any]:
        """Names of the models; revision, dtype and limits of the default one."""
        return models.info()

    return router


def metrics_routes(telemetry: Telemetry) -> APIRouter:
    """`GET /metrics`: the metrics of the replica that answers, for Prometheus.

    Behind several replicas the answer is that of one of them, another at each call; the label `replica` on every series
    tells which. Numbers of the whole service are on the metrics ports of Ray's nodes, with the prefix `ray_`.
    """
    router = APIRouter()
    shown = {200: {"description": _METRICS_FORMAT, "content": {"text/plain": {"schema": {"type": "string"}}}}}

    @router.get(
        "/metrics",
        response_class=Response,
        responses=shown,  # type: ignore[arg-type]
        tags=[_SERVICE_TAG.name],
        summary="Expose the metrics of one replica",
    )
    def metrics(request: Request) -> Response:
        """The metrics of the replica that answers; those of all are on the metrics ports of Ray, prefixed `ray_`."""
        body, media_type = telemetry.replica.expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type})

    return router


def _document_limits(api: FastAPI, limits: LimitsConfig) -> None:
    make_document = api.openapi

    def openapi() -> dict[str, Any]:
        document = make_document()
        fill_in_limits(document, limits)
        return document

    api.openapi = openapi  # type: ignore[method-assign]
