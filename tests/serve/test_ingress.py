"""Two fronts of one application: that of a replica before Ray Serve's HTTP server, and the application's own."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from serve import ingress
from serve.auth import ApiKeys
from serve.models import Models
from serve.routes import create_api
from serve.telemetry.metrics import Telemetry
from tests.serve.contract.clients import LIMITS, assert_error, service_of
from tests.serve.contract.raw_asgi import JSON, ask, parts

KEY = "a-key-of-the-tests"
BODY = parts(b'{"inputs": "paris is [MASK] of france"}')


class Replica:
    """An application behind a stand-in for Serve, as in a replica; `passed` holds the paths that reached Serve."""

    def __init__(self, model, model_dir, *, keys=None, **limits):
        self.telemetry, self.service = Telemetry(replica="r1"), service_of(model, model_dir, **(LIMITS | limits))
        api = create_api(Models(self.service), telemetry=self.telemetry, keys=keys, sends_request_id=False)
        self.passed = []

        async def serve(scope, receive, send):
            self.passed.append(scope["path"])
            await api(scope, receive, send)

        self.app = ingress.Ingress(serve, gateway=api.state.gateway)

    def ask(self, *messages, **request):
        async def main():
            await self.service.start()
            return await ask(self.app, *messages, **request)

        return asyncio.run(main())

    def counted(self):
        """Requests by status."""
        lines = self.telemetry.replica.expose("")[0].decode().splitlines()
        return [line for line in lines if line.startswith("fill_mask_requests_total")]


@pytest.fixture
def replica(model, model_dir):
    return lambda **settings: Replica(model, model_dir, **settings)


def test_a_request_that_passes_both_fronts_is_answered_and_counted_once(replica):
    it = replica(max_concurrent_requests=1)
    assert it.ask(BODY).status_code == 200
    (line,) = it.counted()
    assert line.endswith(" 1.0")
    assert 'model="default"' in line


def test_a_refused_request_never_reaches_serve_and_is_counted(replica):
    it = replica(max_body_bytes=10)
    assert_error(it.ask(BODY), 413)
    assert it.passed == []
    assert 'status="413"' in it.counted()[0]


def test_a_request_without_key_is_refused_before_its_body_is_read(replica):
    it = replica(keys=ApiKeys([KEY]))
    reply = it.ask(BODY)
    assert_error(reply, 401)
    assert reply.read == 0


def test_a_request_with_a_key_is_answered(replica):
    reply = replica(keys=ApiKeys([KEY])).ask(BODY, headers=[*JSON, (b"x-api-key", KEY.encode())])
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/-/healthz", "/mounted/score"])
def test_paths_that_are_no_routes_are_left_to_serve(replica, path):
    it = replica(max_body_bytes=1)
    it.ask(BODY, path=path)
    assert it.passed == [path]


def test_in_a_proxy_the_request_id_alone_is_replaced(monkeypatch):
    monkeypatch.setattr(ingress, "_fronts", [])
    seen = []

    async def serve(scope, receive, send):
        seen.append(dict(scope["headers"])[b"x-request-id"])
        await PlainTextResponse("")(scope, receive, send)

    (middleware,) = ingress.middlewares()
    app = middleware.cls(serve, **middleware.kwargs)
    for sent in (b"<b>", b"mine-1"):
        asyncio.run(ask(app, BODY, path="/score", headers=[(b"x-request-id", sent)]))
    assert seen[0] != b"<b>"
    assert seen[1] == b"mine-1"
