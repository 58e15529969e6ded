"""Gateways in front of Ray Serve's HTTP server and in the application handle a request once."""

import pytest
from starlette.responses import PlainTextResponse

from serve import ingress
from serve.auth import ApiKeys
from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import assert_error, metric, service_of
from tests.serve.contract.raw_asgi import JSON, ask, parts

pytestmark = pytest.mark.anyio
KEY = "a-key-of-the-tests"
BODY = parts(b'{"inputs": "paris is [MASK] of france"}')


@pytest.fixture
async def replica(model, model_dir, telemetry):
    """Function that creates an application behind a fake of Serve, and the list of paths that reach Serve."""
    services = []

    async def create(*, keys=None, **limits):
        services.append(service_of(model, model_dir, **limits))
        await services[-1].start()
        api = create_api(Models(services[-1]), telemetry=telemetry, keys=keys, sends_request_id=False)
        passed = []

        async def serve(scope, receive, send):
            passed.append(scope["path"])
            await api(scope, receive, send)

        return ingress.Ingress(serve, gateway=api.state.gateway), passed

    yield create
    for service in services:
        await service.close()


async def test_a_request_that_passes_both_gateways_is_counted_once(replica, telemetry):
    app, passed = await replica(max_concurrent_requests=1)
    assert (await ask(app, BODY)).status_code == 200
    assert passed == ["/v1/fill-mask"]
    assert metric(telemetry, "fill_mask_requests_total", status="200", model="default") == 1
    assert metric(telemetry, "fill_mask_requests_total") == 1


async def test_a_rejected_request_does_not_reach_serve_but_is_counted(replica, telemetry):
    app, passed = await replica(max_body_bytes=10)
    assert_error(await ask(app, BODY), 413)
    assert passed == []
    assert metric(telemetry, "fill_mask_requests_total", status="413") == 1


async def test_a_request_without_key_is_rejected_before_its_body_is_read(replica):
    app, _ = await replica(keys=ApiKeys([KEY]))
    reply = await ask(app, BODY)
    assert_error(reply, 401)
    assert reply.sent == 0
    assert (await ask(app, BODY, headers=[*JSON, (b"x-api-key", KEY.encode())])).status_code == 200


@pytest.mark.parametrize("path", ["/-/healthz", "/mounted/score"])
async def test_unknown_paths_are_passed_to_serve(replica, path):
    app, passed = await replica(max_body_bytes=1)
    await ask(app, BODY, path=path)
    assert passed == [path]


async def test_in_a_proxy_only_the_request_id_is_replaced(monkeypatch):
    monkeypatch.setattr(ingress, "_gateways", [])
    seen = []

    async def serve(scope, receive, send):
        seen.append(dict(scope["headers"])[b"x-request-id"])
        await PlainTextResponse("")(scope, receive, send)

    (middleware,) = ingress.middlewares()
    app = middleware.cls(serve, **middleware.kwargs)
    for sent in (b"<b>", b"mine-1"):
        await ask(app, BODY, path="/score", headers=[(b"x-request-id", sent)])
    assert seen[0] != b"<b>"
    assert seen[1] == b"mine-1"
