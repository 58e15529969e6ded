"""Requests that cost more than the service allows are refused before the work that they ask for."""

import asyncio
import json
import threading
import time
import tracemalloc

import pytest

from serve.budget import Budget
from serve.schemas import AzureRequest, FillMaskRequest
from serve.service import ModelService
from tests.serve.contract.clients import FILL, JSON, SCORE, TEXT, assert_error, gated_client, in_threads, service_of
from tests.serve.waiting import wait_for


def parameters(**values):
    return {"inputs": [TEXT, TEXT], "parameters": values}


OVER_BUDGET = {
    "max_request_chars": ({"max_request_chars": 49}, {"inputs": [TEXT, TEXT]}, "50"),
    "max_request_tokens": ({"max_request_tokens": 13}, {"inputs": [TEXT, TEXT]}, "14"),
    "max_target_chars": ({"max_target_chars": 8}, parameters(targets=["rome", "paris"]), "9"),
    "max_candidates": ({"max_candidates": 19}, parameters(top_k=10), "20"),
    "max_response_bytes": ({"max_response_bytes": 1000}, parameters(top_k=10), "bytes"),
}


@pytest.mark.parametrize("limit", OVER_BUDGET)
def test_a_request_over_budget_is_422_with_the_limit_and_its_own_figure(model, model_dir, limit):
    limits, body, figure = OVER_BUDGET[limit]
    with gated_client(model, model_dir, **limits) as (gated, _, client):
        response = client.post(FILL, json=body)
        assert_error(response, 422, "TooExpensive")
        assert limit in response.json()["error"]
        assert figure in response.json()["error"]
        assert not gated.forwards


@pytest.mark.parametrize("limit", ["max_candidates", "max_response_bytes"])
def test_targets_bound_the_candidates_that_are_counted(model, model_dir, limit):
    limits, _, _ = OVER_BUDGET[limit]
    with gated_client(model, model_dir, **limits) as (gated, _, client):
        gated.gate.set()
        assert client.post(FILL, json=parameters(top_k=100, targets=["rome", "paris"])).status_code == 200


def test_the_largest_usual_requests_are_within_the_default_budget(roomy_client):
    texts = ["[MASK]" + " cat" * 45] * 32
    assert roomy_client.post(FILL, json={"inputs": texts}).status_code == 200
    assert roomy_client.post(FILL, json={"inputs": texts, "parameters": {"top_k": 100}}).status_code == 200
    assert roomy_client.post(FILL, json={"inputs": TEXT, "parameters": {"targets": ["cat"] * 1000}}).status_code == 200


WRONG_ITEMS = {
    "numbers": '{"inputs": [1' + ",1" * 300_000 + "]}",
    "short texts": '{"inputs": ["a"' + ',"a"' * 300_000 + "]}",
    "targets": '{"inputs": "a [MASK]", "parameters": {"targets": [1' + ",1" * 300_000 + "]}}",
    "index": '{"input_data": {"data": ["a [MASK]"], "index": [1.5' + ",1.5" * 300_000 + "]}}",
    "columns": '{"input_data": {"data": ["a [MASK]"], "columns": ["a"' + ',"a"' * 300_000 + "]}}",
    "unknown keys": "{" + ",".join(f'"k{number}": 1' for number in range(100_000)) + "}",
    "unknown parameters": '{"inputs": "", "parameters": {' + ",".join(f'"k{n}": 1' for n in range(100_000)) + "}}",
}


@pytest.mark.parametrize("name", WRONG_ITEMS)
def test_validation_stops_at_the_first_of_many_wrong_items(name):
    body = json.loads(WRONG_ITEMS[name])
    form = AzureRequest if "input_data" in body else FillMaskRequest
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"validation error") as caught:
            form.model_validate(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(caught.value.errors()) <= 2
    assert peak < 1_000_000


@pytest.mark.parametrize("path", [FILL, SCORE, "/"])
@pytest.mark.parametrize("item", ["[]", "{}", "[[]]"])
def test_a_body_of_very_many_lists_or_objects_is_refused_before_it_is_parsed(roomy_client, monkeypatch, path, item):
    body = '{"inputs": [' + ",".join([item] * 60_000) + "]}"
    with monkeypatch.context() as patch:
        patch.setattr("json.loads", None)
        response = roomy_client.post(path, content=body, headers=JSON)
    assert_error(response, 422, "TooExpensive")


class SlowParts:
    """A model that decodes, or encodes texts of an x, when its gate is open."""

    def __init__(self, model, slow):
        self._model, self._slow, self.gate, self.waits = model, slow, threading.Event(), False

    def __getattr__(self, name):
        return getattr(self._model, name)

    def _wait(self):
        self.waits = True
        assert self.gate.wait(30)

    def encode(self, queries):
        if self._slow == "encode" and queries[0].text.startswith("x"):
            self._wait()
        return self._model.encode(queries)

    def decode(self, encoded, prediction):
        if self._slow == "decode":
            self._wait()
        return self._model.decode(encoded, prediction)


@pytest.mark.parametrize("slow", ["encode", "decode"])
def test_a_health_check_waits_neither_for_tokenization_nor_for_decoding(model, model_dir, slow):
    async def scenario():
        parts = SlowParts(model, slow)
        service: ModelService = service_of(parts, model_dir)
        await service.start()
        body = FillMaskRequest(inputs=["x [MASK]"] * 32)
        request = asyncio.create_task(service.answer(body.queries(), Budget()))
        while not parts.waits:
            await asyncio.sleep(0.001)
        await service.check_health(timeout_s=5)
        assert not request.done()
        parts.gate.set()
        await request
        await service.close()

    asyncio.run(scenario())


def test_texts_of_a_large_request_keep_their_index_in_errors(roomy_client):
    texts = ["[MASK] " + "x" * 15_000] * 6
    response = roomy_client.post(FILL, json={"inputs": [*texts, "no mask"]})
    assert_error(response, 422, "NoMask")
    assert "text 6" in response.json()["error"]


def test_a_small_request_is_answered_while_a_large_one_is_being_worked_on(model, model_dir):
    # The gate lets through one forward after the other: the first of the large request, then the small request.
    large = {"inputs": ["[MASK]" + " cat" * 45] * 32}
    with gated_client(model, model_dir) as (gated, service, client):
        threads, answers = in_threads(client, [large])
        wait_for(lambda: gated.forwards)
        small, small_answers = in_threads(client, [{"inputs": TEXT}])
        wait_for(lambda: service.answering == 2)
        time.sleep(0.1)
        gated.gate.set()
        for thread in threads + small:
            thread.join(30)
        assert gated.forwards[0] < 32
        assert gated.forwards[1] == 1
        assert len(answers[0].json()) == 32
        assert len(small_answers[0].json()) == 5
