import asyncio

import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from serve.errors import ApiError, api_error_response
from serve.limits import Admission, Capacity, RequestEnvelope
from serve.page.routes import page_routes
from serve.telemetry.requests import RequestMetrics, annotate, route_label
from tests.serve.contract.clients import client_of, metric, service_of
from tests.serve.contract.raw_asgi import scope_of

PATHS = frozenset({"/score"})
SECRET = "SECRET"


@pytest.fixture
def records():
    return []


@pytest.fixture
def client(telemetry, records):
    """Client of an application that responds with the status in the query."""

    async def app(scope, receive, send):
        status = int(scope["query_string"] or 200)
        annotate(scope, model="student", items=2, tokens=11, queue_ms=0.25)
        if status == 500:
            raise RuntimeError(SECRET)
        response = api_error_response(scope, ApiError(status, "no")) if status > 200 else Response("ok")
        await response(scope, receive, send)

    times = iter(range(100))
    admission = Admission(app, capacity=Capacity(max_requests=1, max_body_bytes=100), body_timeout_s=30)
    measured = RequestMetrics(admission, telemetry, task_paths=PATHS, log=records.append, clock=lambda: next(times))
    return TestClient(RequestEnvelope(measured))


@pytest.mark.parametrize(
    ("status", "error_type"),
    [(200, ""), (422, "Validation"), (429, "Overloaded"), (500, "Internal"), (504, "DeadlineExceeded")],
)
def test_a_response_counts_by_status_and_error_type(client, records, telemetry, status, error_type):
    response = client.post(f"/score?{status}")
    assert response.status_code == status
    labels = {"method": "POST", "route": "/score", "status": str(status), "model": "student"}
    assert metric(telemetry, "fill_mask_requests_total", **labels) == 1
    failures = metric(telemetry, "fill_mask_failures_total", route="/score", error_type=error_type)
    assert failures == (1 if error_type else None)
    assert metric(telemetry, "fill_mask_request_seconds_sum", route="/score") == 1
    assert metric(telemetry, "fill_mask_requests_in_progress") == 0
    (record,) = records
    assert record.request_id == response.headers["x-request-id"]
    assert (record.status, record.error_type, record.model, record.path) == (status, error_type, "student", "/score")
    assert dict(record.measurements) == {"items": 2, "tokens": 11, "queue_ms": 0.25}
    assert (record.seconds, record.disconnected) == (1, False)


def test_a_rejected_request_counts_for_its_route(client, telemetry):
    assert client.post("/score", content=b"x" * 200).status_code == 413
    assert metric(telemetry, "fill_mask_requests_total", route="/score", status="413") == 1
    assert metric(telemetry, "fill_mask_failures_total", route="/score", error_type="BodyTooLarge") == 1


def test_unknown_paths_and_methods_share_one_series(client, telemetry):
    for number in range(20):
        client.request(f"FETCH{number}", f"/nowhere/{number}?200")
    series = [
        line for line in telemetry.replica.expose("")[0].decode().splitlines() if "fill_mask_requests_total{" in line
    ]
    assert len(series) == 1
    assert metric(telemetry, "fill_mask_requests_total", method="other", route="other") == 20


# /metrics


@pytest.fixture(scope="module")
def service_client(model, model_dir):
    return client_of(service_of(model, model_dir))


@pytest.mark.parametrize(
    ("accept", "media_type", "end"),
    [
        *((accept, "text/plain; version=0.0.4", "") for accept in ("", "*/*", ";;;,", "text/plain;version=9")),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# EOF\n"),
        ("Application/OpenMetrics-Text;version=x", "application/openmetrics-text", "# EOF\n"),
    ],
)
def test_the_metrics_have_the_media_type_of_their_format(service_client, accept, media_type, end):
    response = service_client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    assert response.text.endswith(end)
    assert 'fill_mask_requests_in_progress{replica="local"} 1.0' in response.text
    assert "_created" not in response.text


def test_the_route_of_the_metrics_is_documented_as_text(service_client):
    operation = service_client.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"text/plain"}


def test_every_route_of_the_service_is_known(service_client):
    api = service_client.app
    paths = [*api.openapi()["paths"], *(route.path for route in page_routes().routes)]
    assert [path for path in paths if not api.state.gateway.has_route(scope_of(path))] == []


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
        ("/docs/", "", "/docs"),
        ("/uix", "", "other"),
        ("/score/", "", "other"),
        ("//score", "", "other"),
        ("", "", "other"),
    ],
)
def test_a_path_has_its_route_under_any_mount_point(path, root, route):
    assert route_label(scope_of(path, root=root), PATHS) == route


# Disconnecting clients


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


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("app", "is_broken", "status", "error_type"),
    [
        (answer_slowly, False, 499, "ClientDisconnect"),
        (answer_half, False, 200, "ClientDisconnect"),
        (answer_and_linger, False, 200, ""),
        (read_the_body, False, 499, "ClientDisconnect"),
        (read_the_body, True, 499, "ClientDisconnect"),
    ],
    ids=["before the response", "during the response", "after the response", "during the body", "an error of Serve"],
)
async def test_a_client_that_disconnects_before_the_end_of_the_response_counts(
    telemetry, records, app, is_broken, status, error_type
):
    async def receive():
        if is_broken:
            raise RuntimeError("gone")
        return {"type": "http.disconnect"}

    async def send(_):
        pass

    middleware = RequestMetrics(app, telemetry, task_paths=PATHS, log=records.append)
    task = asyncio.create_task(middleware(scope_of("/score"), receive, send))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == (app is not read_the_body)
    assert [(each.status, each.error_type, each.disconnected) for each in records] == [
        (status, error_type, bool(error_type))
    ]
    assert metric(telemetry, "fill_mask_requests_total", status=str(status), route="/score") == 1
    assert metric(telemetry, "fill_mask_failures_total", error_type="ClientDisconnect") == (1 if error_type else None)
    assert metric(telemetry, "fill_mask_requests_in_progress") == 0
