"""Values of the service's configuration, from the configuration to the model, the queue and the proxy."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMaskQuery
from serve import app
from serve.budget import Budget
from serve.limits import Admission, Capacity
from serve.models import ModelCache, Models
from serve.routes import create_api
from serve.service import ModelService

TEXT = "paris is [MASK] of france"


class Noting:
    """A model that notes the rows and tokens of its forwards."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.batches: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, encoded: Any) -> Any:
        self.batches.append((len(encoded), sum(len(query.input_ids) for query in encoded)))
        return self._model.run(encoded)


def answered(model, model_dir, count, **values):
    """The batches in which a request of so many texts is answered."""
    noting = Noting(model)

    async def ask():
        service = ModelService(noting, FillMaskAppConfig.model_validate({"model_dir": model_dir, **values}))
        await service.start()
        noting.batches.clear()
        await service.answer([FillMaskQuery(TEXT)] * count, Budget())
        await service.close()

    asyncio.run(ask())
    return noting.batches


@pytest.mark.parametrize("rows", [3, 32])
def test_a_batch_has_at_most_the_texts_of_the_configuration(model, model_dir, rows):
    assert max(found for found, _ in answered(model, model_dir, 9, max_batch_rows=rows)) == min(rows, 9)


def test_a_batch_has_at_most_the_tokens_of_the_configuration(model, model_dir):
    (one,) = answered(model, model_dir, 1)
    found = answered(model, model_dir, 9, max_batch_tokens=3 * one[1])
    assert max(tokens for _, tokens in found) == 3 * one[1]


def test_the_queue_holds_the_tokens_of_the_configuration(model, model_dir):
    async def ask():
        limits = {"max_queued_tokens": 8}
        service = ModelService(model, FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": limits}))
        # Nothing serves the queue.
        requests = [asyncio.create_task(service.answer([FillMaskQuery(TEXT)], Budget())) for _ in range(3)]
        done, waiting = await asyncio.wait(requests, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await service.close()
        return [each.exception().status_code for each in done]

    assert asyncio.run(ask())[0] == 429


@pytest.mark.parametrize("cpus", [1, 3])
def test_a_replica_runs_as_many_batches_at_a_time_as_it_has_cpus(model, model_dir, cpus):
    service = ModelService(model, FillMaskAppConfig(model_dir=model_dir, num_cpus=cpus))
    assert service._threads.cpus == cpus
    asyncio.run(service.close())


@pytest.fixture
def replica(model_dir, monkeypatch):
    """A replica in this process, with what it has told Ray Serve."""
    told: dict[str, Any] = {}

    def multiplexed(**options: Any) -> Any:
        told.update(options)
        return lambda load: load

    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r"))
    monkeypatch.setattr(app.ray_serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(app.ray_serve, "multiplexed", multiplexed)
    monkeypatch.setattr(app, "configure_json_logging", lambda: None)
    monkeypatch.setattr(app, "create_api", lambda models, **options: told.update(options) or create_api(models))
    monkeypatch.setattr(app.ingress, "install", lambda gateway: None)

    def start(**values: Any) -> tuple[Any, dict[str, Any]]:
        config = {"model_dir": model_dir, **values}
        made = app.build_app(config)._bound_deployment
        replica_class = made.func_or_class.__mro__[
            1
        ]  # behind it, the one of Serve's ingress has a coroutine as constructor
        return replica_class(*made.init_args), told

    return start


@pytest.mark.parametrize("count", [1, 4])
def test_a_replica_holds_as_many_further_models_as_the_configuration_says(replica, model_dir, count):
    _, told = replica(extra_models={"other": model_dir}, max_loaded_extra_models=count)
    assert told["max_num_models_per_replica"] == count


@pytest.mark.parametrize("log", [True, False])
def test_a_replica_logs_every_request_if_the_configuration_says_so(replica, log):
    made, told = replica(access_log=log)
    made.__serve_build_asgi_app__()
    assert told["access_log"] is log


@pytest.mark.parametrize(("dtype", "expected"), [("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_replica_has_the_name_and_the_type_of_the_configuration(replica, dtype, expected):
    made, _ = replica(model_name="mine", dtype=dtype)
    with TestClient(made.__serve_build_asgi_app__()) as client:
        info = client.get("/info").json()
    assert (info["model"], info["dtype"]) == ("mine", expected)


def test_times_in_the_headers_are_milliseconds(model, model_dir, monkeypatch):
    service = ModelService(model, FillMaskAppConfig(model_dir=model_dir))
    with TestClient(create_api(Models(service))) as client:
        client.post("/score", json={"input_data": [TEXT]})
        answer = ModelService.answer

        async def slow(self: Any, queries: Any, budget: Any) -> Any:
            answers, served = await answer(self, queries, budget)
            return answers, SimpleNamespace(tokens=served.tokens, queue_s=0.25, inference_s=1.5)

        monkeypatch.setattr(ModelService, "answer", slow)
        headers = client.post("/score", json={"input_data": [TEXT]}).headers
    assert (float(headers["x-queue-time"]), float(headers["x-inference-time"])) == (250.0, 1500.0)


def test_waits_are_as_many_seconds_as_the_configuration_says(model, model_dir, monkeypatch):
    waits: list[float | None] = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: waits.append(seconds) or timeout(seconds))

    async def ask():
        config = FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": {"deadline_s": 21.0}})
        service = ModelService(model, config)
        await service.start()
        waits.clear()
        await service.answer([FillMaskQuery(TEXT)], Budget())
        await service.check_health(timeout_s=23.0)
        await service.close()
        capacity = Capacity(max_requests=1, max_body_bytes=100)
        body = {"type": "http.request", "body": b"{}"}
        admission = Admission(lambda *_: asyncio.sleep(0), capacity=capacity, body_timeout_s=22.0)
        await admission({"type": "http", "method": "POST", "headers": []}, lambda: asyncio.sleep(0, body), None)
        cache = ModelCache(
            {"other": model_dir}, lambda *_: asyncio.sleep(0), cache=lambda load: load, load_timeout_s=24.0
        )
        await cache.service("other")

    asyncio.run(ask())
    assert waits == [21.0, 23.0, 22.0, 24.0]


def test_the_proxy_waits_longer_than_body_and_answer_may_take_together(model_dir, monkeypatch):
    started: dict[str, Any] = {}
    monkeypatch.setattr(app, "ensure_capacity", lambda need, **_: started.update(need=need))
    monkeypatch.setattr(app.ray_serve, "status", lambda: SimpleNamespace(proxies={}))
    monkeypatch.setattr(app.ray_serve, "start", lambda **options: started.update(options))
    monkeypatch.setattr(app.ray_serve, "run", lambda *_, **__: None)
    monkeypatch.setattr(app.ray_serve, "shutdown", lambda: None)
    limits = {"body_timeout_s": 100.0, "deadline_s": 200.0}
    config = FillMaskAppConfig.model_validate(
        {"model_dir": model_dir, "limits": limits, "num_replicas": 3, "num_cpus": 2}
    )
    with app.serving(config, host="127.0.0.1", port=0):
        pass
    assert started["http_options"]["request_timeout_s"] > 300.0
    assert started["http_options"]["host"] == "127.0.0.1"
    assert (started["need"].count, started["need"].bundle()["CPU"]) == (3, 2)


def test_serve_hands_a_replica_all_requests_that_it_may_take_or_refuse():
    limits = {"max_concurrent_requests": 5000}
    deployment = app.build_app({"model_dir": "/m", "limits": limits})._bound_deployment
    assert deployment.max_ongoing_requests > 5000
