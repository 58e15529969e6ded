"""A client that leaves is not served: what it waited for is not run, and its place is free at once."""

import asyncio
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.models import Models
from serve.routes import create_api
from serve.telemetry.metrics import Telemetry
from tests.serve.contract.clients import GatedModel, service_of
from tests.serve.contract.raw_asgi import LEFT, ask, parts

BODY = parts(b'{"inputs": "paris is [MASK] of france"}')
HALF = [{"type": "http.request", "body": b'{"inputs": ', "more_body": True}, LEFT]
FREE_AT_ONCE_S = 0.1


class Gated:
    """A started service whose model waits at a gate."""

    def __init__(self, model, model_dir, **limits):
        self.model, self.telemetry = GatedModel(model), Telemetry(replica="r1")
        self.service = service_of(self.model, model_dir, **limits)
        self.api = create_api(Models(self.service), telemetry=self.telemetry)

    async def __aenter__(self):
        await self.service.start()
        return self

    async def __aexit__(self, *_):
        self.model.gate.set()
        await self.service.close()

    async def running(self):
        """A request that stands at the gate."""
        task = asyncio.create_task(ask(self.api, BODY))
        await until(lambda: self.model.forwards)
        return task

    async def queued(self):
        """A request that waits for the model."""
        before = self.service._batcher.queued_tokens
        task = asyncio.create_task(ask(self.api, BODY))
        await until(lambda: self.service._batcher.queued_tokens > before)
        return task

    def count(self, name, **labels):
        body, _ = self.telemetry.replica.expose("")
        return sum(
            sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def leave(task):
    """Cancels a request as the server does, and says how long that took."""
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


@pytest.fixture
def gated(model, model_dir):
    return lambda **limits: Gated(model, model_dir, **limits)


def test_a_request_that_leaves_the_queue_is_never_run_and_frees_its_tokens_at_once(gated):
    async def main():
        async with gated() as it:
            first, second, third = await it.running(), await it.queued(), await it.queued()
            tokens = it.service._batcher.queued_tokens
            assert await leave(second) < FREE_AT_ONCE_S
            assert it.service._batcher.queued_tokens == tokens // 2
            it.model.gate.set()
            assert [(await task).status_code for task in (first, third)] == [200, 200]
            assert it.model.forwards == [1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("place", ["running", "queued"])
def test_a_request_that_leaves_frees_its_place_among_the_others_at_once(gated, place):
    async def main():
        async with gated(max_concurrent_requests=2) as it:
            tasks = {"running": await it.running(), "queued": await it.queued()}
            assert (await ask(it.api, BODY)).status_code == 429
            assert await leave(tasks.pop(place)) < FREE_AT_ONCE_S
            tasks["new"] = await it.queued()
            it.model.gate.set()
            assert [(await task).status_code for task in tasks.values()] == [200, 200]

    asyncio.run(main())


@pytest.mark.parametrize("place", ["running", "queued"])
def test_a_request_that_leaves_counts_as_499(gated, place):
    async def main():
        async with gated() as it:
            tasks = {"running": await it.running(), "queued": await it.queued()}
            await leave(tasks.pop(place))
            assert it.count("fill_mask_requests_total", status="499", route="/v1/fill-mask") == 1
            assert it.count("fill_mask_failures_total", error_type="ClientDisconnect") == 1
            assert it.count("fill_mask_requests_in_progress") == 1

    asyncio.run(main())


def test_a_client_that_leaves_within_its_body_frees_its_place_and_counts_as_499(gated):
    async def main():
        async with gated(max_concurrent_requests=1) as it:
            it.model.gate.set()
            await ask(it.api, HALF)
            assert it.model.forwards == []
            assert it.count("fill_mask_requests_total", status="499") == 1
            assert (await ask(it.api, BODY)).status_code == 200

    asyncio.run(main())


def test_the_model_answers_the_next_ones_after_all_have_left(gated):
    async def main():
        async with gated() as it:
            tasks = [await it.running(), *[await it.queued() for _ in range(5)]]
            for task in tasks:
                await leave(task)
            it.model.gate.set()
            assert (await ask(it.api, BODY)).status_code == 200
            assert it.model.forwards == [1, 1]

    asyncio.run(main())
