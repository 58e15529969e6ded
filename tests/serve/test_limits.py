import asyncio
import contextlib
import json

import pytest
from starlette.responses import PlainTextResponse

from serve.limits import Admission, Capacity, RequestEnvelope
from serve.telemetry.metrics import Telemetry
from serve.telemetry.requests import RequestMetrics
from tests.serve.contract.clients import assert_error
from tests.serve.contract.raw_asgi import LEFT, ask, parts

LIMIT = 200_000
SMALL, HALF = parts(b"{}"), [{"type": "http.request", "body": b"{", "more_body": True}]


class Served:
    """An application behind admission that answers with the size of the body once its gate is open."""

    def __init__(self, *, max_requests=1, body_timeout_s=10.0):
        self.gate, self.bodies = asyncio.Event(), []
        capacity = Capacity(max_requests=max_requests, max_body_bytes=LIMIT)
        self.admission = Admission(self.answer, capacity=capacity, body_timeout_s=body_timeout_s)
        self.api = RequestEnvelope(self.admission)
        self.tasks = []

    async def answer(self, scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        await self.gate.wait()
        await PlainTextResponse(str(len(message["body"])))(scope, receive, send)

    async def begin(self, messages, **request):
        task = asyncio.create_task(ask(self.api, messages, **request))
        self.tasks.append(task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task


def run(scenario, **limits):
    async def main():
        served = Served(**limits)
        try:
            async with asyncio.timeout(30):
                await scenario(served)
        finally:
            for task in served.tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_requests_whose_bodies_are_incomplete_take_no_room():
    async def scenario(served):
        for _ in range(300):
            await served.begin(HALF)
        served.gate.set()
        assert (await ask(served.api, SMALL)).text == "2"

    run(scenario)


def test_a_body_in_many_messages_reaches_the_application_in_one():
    async def scenario(served):
        served.gate.set()
        await ask(served.api, parts(*[b"a"] * 100_000))
        assert served.bodies == [b"a" * 100_000]

    run(scenario)


def test_a_body_that_does_not_arrive_in_time_is_408_and_closes_the_connection():
    async def scenario(served):
        reply = await ask(served.api, HALF)
        assert_error(reply, 408)
        assert reply.headers["connection"] == "close"

    run(scenario, body_timeout_s=0.05)


def test_a_refusal_has_the_envelope_with_the_id_of_the_request_and_reads_nothing_of_the_body():
    async def scenario(served):
        await served.begin(SMALL)
        reply = await ask(served.api, parts(b"\xff no JSON"), headers=[(b"x-request-id", b"mine-1")])
        assert_error(reply, 429)
        assert reply.json()["request_id"] == "mine-1"
        assert int(reply.headers["retry-after"]) >= 1
        assert int(reply.headers["content-length"]) == len(reply.content)

    run(scenario)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_other_methods_pass_while_there_is_no_room(method):
    async def scenario(served):
        await served.begin(SMALL)
        served.gate.set()
        assert (await ask(served.api, SMALL, method=method)).status_code == 200

    run(scenario)


def test_room_is_free_again_after_an_answer_an_exception_and_a_cancellation():
    async def scenario(served):
        served.gate.set()
        assert (await ask(served.api, SMALL)).status_code == 200
        assert (await ask(served.api, [{"type": "http.request", "body": None}])).status_code == 500
        served.gate.clear()
        task = await served.begin(SMALL)
        task.cancel()
        await asyncio.wait([task])
        served.gate.set()
        assert (await ask(served.api, SMALL)).status_code == 200

    run(scenario)


def test_large_bodies_that_are_incomplete_share_a_budget_and_small_ones_pass():
    async def scenario(served):
        served.gate.set()
        large = [{"type": "http.request", "body": b" " * (LIMIT - 1), "more_body": True}]
        for _ in range(32):
            await served.begin(large)
        assert_error(await ask(served.api, large), 429)
        assert (await ask(served.api, SMALL)).status_code == 200
        for task in served.tasks:
            task.cancel()
        await asyncio.wait(served.tasks)
        assert (await ask(served.api, parts(b" " * 150_000, b" "))).status_code == 200

    run(scenario)


def test_a_server_that_cannot_read_on_has_lost_its_client():
    served, telemetry = Served(), Telemetry(replica="r1")

    async def receive():
        raise RuntimeError("gone")

    async def unreachable(_):
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": []}
    asyncio.run(RequestMetrics(served.admission, telemetry, task_paths=())(scope, receive, unreachable))
    assert 'status="499"' in telemetry.replica.expose("")[0].decode()


def test_a_client_that_leaves_within_its_body_never_reaches_the_application():
    async def scenario(served):
        assert (await ask(served.api, [*HALF, LEFT])).status_code == 0
        assert served.bodies == []

    run(scenario)


@pytest.mark.parametrize(
    "ids",
    [[], [b"a b"], [b"x" * 129], [b"<b>"], [b"\xe9"], [b"a\n"], [b""], [b"a", b"b"], [b"a", b"<b>"]],
    ids=lambda ids: b"|".join(ids).decode("latin-1")[:8] or "none",
)
def test_an_id_that_is_not_one_plain_word_is_replaced_for_everything_behind(ids):
    seen = []

    async def app(scope, receive, send):
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        await PlainTextResponse("")(scope, receive, send)

    reply = asyncio.run(ask(RequestEnvelope(app), SMALL, headers=[(b"x-request-id", each) for each in ids]))
    assert [reply.headers["x-request-id"].encode()] == seen
    assert seen[0] not in ids
    assert json.dumps(seen[0].decode()) == f'"{seen[0].decode()}"'
