import asyncio

import pytest
from fastapi import FastAPI, Request, Response
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from serve.errors import ApiError, api_error_response
from serve.limits import Admission, Capacity, RequestEnvelope
from serve.models import Models
from serve.page.routes import page_routes
from serve.routes import create_api, metrics_routes
from serve.service import ModelService
from serve.telemetry.requests import RequestMetrics, annotate, route_label

PATHS = frozenset({"/score"})
SECRET = "SECRET"


@pytest.fixture
def records():
    return []


@pytest.fixture
def client(telemetry, records):
    api = FastAPI()

    @api.post("/score")
    async def score(request: Request, status: int = 200):
        annotate(request.scope, model="student", items=2, tokens=11, queue_ms=0.25)
        if status == 500:
            raise RuntimeError(SECRET)
        return api_error_response(request.scope, ApiError(status, "no")) if status > 200 else Response("ok")

    @api.get("/healthz")
    async def healthz():
        return {}

    api.include_router(metrics_routes(telemetry))
    api.add_middleware(Admission, capacity=Capacity(max_requests=1, max_body_bytes=100), body_timeout_s=10)
    api.add_middleware(RequestMetrics, telemetry=telemetry, task_paths=PATHS, log=records.append)
    api.add_middleware(RequestEnvelope)
    return TestClient(api, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("status", "error_type"), [(200, ""), (422, "Validation"), (429, "Overloaded"), (504, "DeadlineExceeded")]
)
def test_a_response_counts_by_status_and_error_type(client, records, value_of, status, error_type):
    response = client.post(f"/score?status={status}")
    labels = {"method": "POST", "route": "/score", "status": str(status), "model": "student"}
    assert value_of("fill_mask_requests_total", **labels) == 1
    failures = value_of("fill_mask_failures_total", route="/score", error_type=error_type)
    assert failures == (1 if error_type else None)
    assert value_of("fill_mask_request_seconds_count", route="/score") == 1
    (record,) = records
    assert record.request_id == response.headers["x-request-id"]
    assert (record.status, record.error_type, record.model) == (status, error_type, "student")
    assert dict(record.measurements) == {"items": 2, "tokens": 11, "queue_ms": 0.25}
    assert record.seconds > 0


def test_an_exception_counts_as_500(client, value_of):
    assert client.post("/score?status=500").status_code == 500
    assert value_of("fill_mask_requests_total", route="/score", status="500") == 1
    assert value_of("fill_mask_failures_total", error_type="Internal") == 1


def test_a_rejected_request_counts_for_its_route(client, value_of):
    assert client.post("/score", content=b"x" * 200).status_code == 413
    assert value_of("fill_mask_requests_total", route="/score", status="413") == 1
    assert value_of("fill_mask_failures_total", route="/score", error_type="BodyTooLarge") == 1


def test_a_request_is_in_progress_until_it_has_finished(client, value_of):
    text = client.get("/metrics").text
    assert 'fill_mask_requests_in_progress{replica="r1"} 1.0' in text
    assert value_of("fill_mask_requests_in_progress") == 0
    client.post("/score?status=500")
    assert value_of("fill_mask_requests_in_progress") == 0


def test_unknown_paths_and_methods_share_one_series(client, telemetry):
    for number in range(50):
        client.request(f"FETCH{number}", f"/nowhere/{number}?{SECRET}")
    lines = client.get("/metrics").text.splitlines()
    ours = [line for line in lines if line.startswith("fill_mask_requests_total")]
    assert len(ours) == 1
    assert 'method="other"' in ours[0]
    assert 'route="other"' in ours[0]


def test_the_metrics_have_the_media_type_of_their_format(client):
    assert client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["", "*/*", ";;;,", "application/openmetrics-text;version=x", "text/plain;version=9"]
)
def test_any_accept_header_gets_metrics(client, accept):
    assert client.get("/metrics", headers={"accept": accept}).status_code == 200


def test_the_route_of_the_metrics_is_documented_as_text(client):
    operation = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"text/plain"}


def scope_of(path, root=""):
    return {"type": "http", "method": "POST", "path": path, "root_path": root, "headers": [], "state": {}}


@pytest.mark.parametrize(
    ("path", "root", "route"),
    [
        ("/score", "", "/score"),
        ("/mask/score", "/mask", "/score"),
        ("/mask/score", "/mask/", "/score"),
        ("/mask", "/mask", "/"),
        ("/masks/score", "/mask", "other"),
        ("/ui", "", "/ui"),
        ("/ui/page.js", "", "/ui"),
        ("/uix", "", "other"),
        ("/score/", "", "other"),
        ("//score", "", "other"),
        ("", "", "other"),
    ],
)
def test_a_path_has_its_route_under_any_mount_point(path, root, route):
    assert route_label(scope_of(path, root), PATHS) == route


def test_every_route_of_the_service_is_known(model, model_dir):
    api = create_api(Models(ModelService(model, FillMaskAppConfig(model_dir=model_dir))))
    paths = {*api.openapi()["paths"], *(route.path for route in page_routes().routes)}
    assert not [path for path in paths if not api.state.gateway.has_route(scope_of(path))]


# Disconnecting clients


def run(app, telemetry, records, *, receive=None):
    async def send(_):
        pass

    async def nothing():
        await asyncio.sleep(60)

    async def main():
        middleware = RequestMetrics(app, telemetry, task_paths=PATHS, log=records.append)
        task = asyncio.create_task(middleware(scope_of("/score"), receive or nothing, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task

    return asyncio.run(main())


async def answer_slowly(scope, receive, send):
    await asyncio.sleep(60)


async def answer_half(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(60)


async def answer_and_linger(scope, receive, send):
    await Response("ok")(scope, receive, send)
    await receive()
    await asyncio.sleep(60)


async def read_the_body(scope, receive, send):
    assert (await receive())["type"] == "http.disconnect"
    await Response("no", 400)(scope, receive, send)


async def leave():
    return {"type": "http.disconnect"}


def test_a_cancelled_request_counts_as_499_and_stays_cancelled(telemetry, records, value_of):
    assert run(answer_slowly, telemetry, records).cancelled()
    assert value_of("fill_mask_requests_total", status="499", route="/score") == 1
    assert value_of("fill_mask_failures_total", error_type="ClientDisconnect") == 1
    assert value_of("fill_mask_requests_in_progress") == 0


def test_a_client_that_disconnects_during_its_body_counts_as_499(telemetry, records):
    run(read_the_body, telemetry, records, receive=leave)
    assert [(record.status, record.disconnected) for record in records] == [(499, True)]


def test_a_client_that_disconnects_during_the_response_keeps_its_status(telemetry, records):
    run(answer_half, telemetry, records)
    assert [(record.status, record.error_type) for record in records] == [(200, "ClientDisconnect")]


def test_a_disconnection_after_the_response_does_not_count(telemetry, records):
    run(answer_and_linger, telemetry, records, receive=leave)
    assert [(record.status, record.disconnected) for record in records] == [(200, False)]
