import asyncio
import json
from types import SimpleNamespace

import pytest
from starlette.responses import PlainTextResponse

from serve.limits import Admission, Capacity, RequestEnvelope
from tests.serve.contract.clients import assert_error
from tests.serve.contract.raw_asgi import DISCONNECT, ask, parts

pytestmark = pytest.mark.anyio
LIMIT = 200_000
SMALL, HALF = parts(b"{}"), [{"type": "http.request", "body": b"{", "more_body": True}]


@pytest.fixture
async def start():
    """Function that creates an application behind admission, which responds once its gate is open."""
    tasks = []

    def create(*, max_requests=1, body_timeout_s=30.0):
        gate, bodies = asyncio.Event(), []

        async def answer(scope, receive, send):
            message = await receive()
            assert not message["more_body"]
            bodies.append(message["body"])
            await gate.wait()
            await PlainTextResponse(str(len(message["body"])))(scope, receive, send)

        capacity = Capacity(max_requests=max_requests, max_body_bytes=LIMIT)
        admission = Admission(answer, capacity=capacity, body_timeout_s=body_timeout_s)
        api = RequestEnvelope(admission)

        async def begin(messages):
            tasks.append(asyncio.create_task(ask(api, messages)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return tasks[-1]

        return SimpleNamespace(gate=gate, bodies=bodies, admission=admission, api=api, begin=begin)

    yield create
    for task in tasks:
        task.cancel()


async def test_requests_with_incomplete_bodies_take_no_capacity(start):
    served = start()
    for _ in range(300):
        await served.begin(HALF)
    served.gate.set()
    assert (await ask(served.api, SMALL)).text == "2"


async def test_a_body_in_many_messages_reaches_the_application_in_one(start):
    served = start()
    served.gate.set()
    await ask(served.api, parts(*[b"a"] * 1000))
    assert served.bodies == [b"a" * 1000]


async def test_a_body_that_does_not_arrive_in_time_is_408_and_closes_the_connection(start):
    reply = await ask(start(body_timeout_s=0.05).api, HALF)
    assert_error(reply, 408, message="within 0.05 s")
    assert reply.headers["connection"] == "close"


async def test_a_rejection_has_the_envelope_with_the_request_id_and_does_not_parse_the_body(start):
    served = start()
    await served.begin(SMALL)
    reply = await ask(served.api, parts(b"\xff no JSON"), headers=[(b"x-request-id", b"mine-1")])
    assert_error(reply, 429)
    assert reply.json()["request_id"] == "mine-1"
    assert int(reply.headers["content-length"]) == len(reply.content)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_other_methods_pass_at_full_capacity(start, method):
    served = start()
    await served.begin(SMALL)
    served.gate.set()
    assert (await ask(served.api, SMALL, method=method)).status_code == 200


async def test_capacity_is_released_after_a_response_an_exception_and_a_cancellation(start):
    served = start()
    served.gate.set()
    assert (await ask(served.api, SMALL)).status_code == 200
    assert (await ask(served.api, [{"type": "http.request", "body": None}])).status_code == 500
    served.gate.clear()
    task = await served.begin(SMALL)
    task.cancel()
    await asyncio.wait([task])
    served.gate.set()
    assert (await ask(served.api, SMALL)).status_code == 200


async def test_large_incomplete_bodies_share_a_budget_and_small_ones_pass(start):
    served = start()
    served.gate.set()
    large = [{"type": "http.request", "body": b" " * (LIMIT - 1), "more_body": True}]
    tasks = [await served.begin(large) for _ in range(32)]
    assert_error(await ask(served.api, large), 429)
    assert (await ask(served.api, SMALL)).status_code == 200
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for _ in range(10):
        assert (await ask(served.api, parts(*[b" " * 10_000] * 19))).status_code == 200


async def test_a_client_that_disconnects_during_its_body_never_reaches_the_application(start):
    served = start()
    assert (await ask(served.api, [*HALF, DISCONNECT])).status_code == 0
    assert served.bodies == []


@pytest.mark.parametrize(
    "ids",
    [[], [b"a b"], [b"x" * 129], [b"<b>"], [b"\xe9"], [b"a\n"], [b"a\tb"], [b""], [b"a", b"b"], [b"a", b"<b>"]],
    ids=lambda ids: b"|".join(ids).decode("latin-1")[:8] or "none",
)
async def test_an_invalid_id_is_replaced_for_all_later_components(ids):
    seen = []

    async def app(scope, receive, send):
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        await PlainTextResponse("")(scope, receive, send)

    reply = await ask(RequestEnvelope(app), SMALL, headers=[(b"X-Request-Id", each) for each in ids])
    assert [reply.headers["x-request-id"].encode()] == seen
    assert seen[0] not in ids
    assert len(seen[0]) == 32
    assert json.dumps(seen[0].decode()) == f'"{seen[0].decode()}"'


@pytest.mark.parametrize("valid_id", [b"abc-1", b"A._-z", b"x" * 128])
async def test_a_valid_id_is_kept(valid_id):
    reply = await ask(RequestEnvelope(PlainTextResponse("")), SMALL, headers=[(b"x-request-id", valid_id)])
    assert reply.headers["x-request-id"] == valid_id.decode()
