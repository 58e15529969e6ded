"""Concurrent requests: limits, deadlines, shared forward passes, and clients that disconnect."""

import asyncio
import json
import threading

import pytest

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMaskQuery
from serve.budget import Budget
from serve.errors import ApiError
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from serve.telemetry.metrics import Telemetry
from tests.serve.contract.clients import TEXT, assert_error, metric, service_of
from tests.serve.contract.raw_asgi import ask, parts
from tests.serve.waiting import until

pytestmark = pytest.mark.anyio
TOKENS = 7  # of TEXT
LARGE = {"inputs": ["[MASK]" + " cat" * 45] * 32}


class GatedModel:
    """Model that waits for its gate before each forward pass; `forwards` contains their rows."""

    def __init__(self, model):
        self._model, self.gate, self.forwards = model, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def run(self, encoded):
        self.forwards.append(len(encoded))
        assert self.gate.wait(30)
        return self._model.run(encoded)


class Gated:
    """Started service whose model waits for its gate."""

    def __init__(self, model, model_dir, **limits):
        self.model, self.telemetry = GatedModel(model), Telemetry(replica="r1")
        self.service = service_of(model, model_dir, **limits)
        self.api = create_api(Models(self.service), telemetry=self.telemetry)

    async def __aenter__(self):
        await self.service.start()
        self.service.task = self.model
        return self

    async def __aexit__(self, *_):
        self.model.gate.set()
        await self.service.close()

    async def ask(self, body=None):
        return await ask(self.api, parts(json.dumps(body or {"inputs": TEXT}).encode()))

    async def status(self, path):
        return (await ask(self.api, parts(b""), path=path, method="GET")).status_code

    async def running(self, body=None):
        """Start a request that waits for the gate."""
        task = asyncio.create_task(self.ask(body))
        await until(lambda: self.model.forwards)
        return task

    async def queued(self, body=None):
        """Start a request that waits for the model."""
        before = self.queued_tokens
        task = asyncio.create_task(self.ask(body))
        await until(lambda: self.queued_tokens > before)
        return task

    @property
    def queued_tokens(self):
        return self.service._batcher.queued_tokens

    async def finish(self, *tasks):
        """Open the gate, and return the bodies of the responses."""
        self.model.gate.set()
        replies = [await task for task in tasks]
        assert [reply.status_code for reply in replies] == [200] * len(tasks)
        assert self.service.active_requests == 0
        return [reply.json() for reply in replies]


async def leave(task):
    """Cancel a request like the server, which must take effect at once."""
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert task.cancelled()


@pytest.fixture
def gated(model, model_dir):
    return lambda **limits: Gated(model, model_dir, **limits)


async def test_a_service_that_misses_its_deadline_is_not_ready_until_it_makes_progress(gated):
    async with gated(deadline_s=0.2) as it:
        assert await it.status("/readyz") == 200
        assert_error(await it.ask(), 504, message="no answer within 0.2 s")
        await asyncio.sleep(0.2)
        assert await it.status("/readyz") == 503
        assert await it.status("/healthz") == 200
        it.model.gate.set()
        await until(lambda: it.service.ready)


async def test_rejected_input_counts_as_progress_of_a_busy_service(model, model_dir):
    now = [0.0]
    config = FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": {"deadline_s": 5}})
    service = ModelService(model, config, clock=lambda: now[0])
    await service.start()
    service.active_requests = 1  # a request that never ends
    for now[0] in (4.0, 8.0, 12.0):
        with pytest.raises(ApiError, match="mask"):
            await service.answer([FillMaskQuery("none")], Budget())
    now[0] = 17.0
    assert service.ready
    now[0] = 17.1
    assert not service.ready
    service.active_requests = 0
    assert service.ready
    await service.close()


async def test_a_full_queue_is_429_and_not_ready(gated):
    async with gated(max_queued_tokens=TOKENS) as it:
        tasks = [await it.running(), await it.queued()]
        assert await it.status("/readyz") == 503
        assert_error(await it.ask(), 429)
        await it.finish(*tasks)


async def test_requests_that_arrive_during_a_forward_pass_share_the_next_one_with_their_own_parameters(gated):
    counts = [1, 3, 7, 20]
    async with gated() as it:
        first = await it.running()
        others = [await it.queued({"inputs": TEXT, "parameters": {"top_k": count}}) for count in counts]
        _, *answers = await it.finish(first, *others)
        assert it.model.forwards == [1, 4]
        assert [len(answer) for answer in answers] == counts


async def test_a_small_request_is_answered_while_a_large_one_is_running(gated):
    async with gated() as it:
        large, small = await it.running(LARGE), await it.queued()
        await asyncio.sleep(0.1)  # a faster model would not split the request
        answers = await it.finish(large, small)
        assert it.model.forwards[0] < 32
        assert it.model.forwards[1] == 1
        assert [len(answer) for answer in answers] == [32, 5]


async def test_a_health_check_of_a_model_that_does_not_respond_times_out(gated):
    async with gated() as it:
        with pytest.raises(TimeoutError):
            await it.service.check_health(timeout_s=0.05)
        it.model.gate.set()
        await it.service.check_health(timeout_s=30)


# Clients that disconnect


async def test_a_request_cancelled_in_the_queue_never_runs_and_frees_its_tokens(gated):
    async with gated() as it:
        first, second, third = await it.running(), await it.queued(), await it.queued()
        assert it.queued_tokens == 2 * TOKENS
        await leave(second)
        assert it.queued_tokens == TOKENS
        await it.finish(first, third)
        assert it.model.forwards == [1, 1]


@pytest.mark.parametrize("state", ["running", "queued"])
async def test_a_disconnected_request_frees_its_capacity_and_counts_as_499(gated, state):
    async with gated(max_concurrent_requests=2) as it:
        tasks = {"running": await it.running(), "queued": await it.queued()}
        assert_error(await it.ask(), 429)
        assert await it.status("/healthz") == 200
        await leave(tasks.pop(state))
        assert metric(it.telemetry, "fill_mask_requests_total", status="499", route="/v1/fill-mask") == 1
        assert metric(it.telemetry, "fill_mask_failures_total", error_type="ClientDisconnect") == 1
        assert metric(it.telemetry, "fill_mask_requests_in_progress") == 1
        await it.finish(*tasks.values(), await it.queued())


async def test_new_requests_are_answered_after_all_clients_have_disconnected(gated):
    async with gated() as it:
        for task in [await it.running(), *[await it.queued() for _ in range(5)]]:
            await leave(task)
        await it.finish(asyncio.create_task(it.ask()))
        assert it.model.forwards == [1, 1]
