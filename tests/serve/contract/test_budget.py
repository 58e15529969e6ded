"""Requests that exceed the limits are rejected before any work is done."""

import asyncio
import json
import threading
import tracemalloc

import pytest

from serve.budget import Budget
from serve.schemas import AzureRequest, FillMaskRequest
from tests.serve.contract.clients import FILL, JSON, ROOT, SCORE, TEXT, assert_error, client_of, service_of
from tests.serve.waiting import until

TWO_TEXTS = {"inputs": [TEXT, TEXT]}
LIMITS = {
    "max_request_chars": (49, TWO_TEXTS, "50 characters in all texts, but max_request_chars is 49"),
    "max_request_tokens": (13, TWO_TEXTS, "14 tokens in all texts, but max_request_tokens is 13"),
    "max_target_chars": (8, TWO_TEXTS | {"parameters": {"targets": ["rome", "paris"]}}, "9 characters in parameters"),
    "max_candidates": (19, TWO_TEXTS | {"parameters": {"top_k": 10}}, "20 candidates, but max_candidates is 19"),
    "max_response_bytes": (1000, TWO_TEXTS | {"parameters": {"top_k": 10}}, "but max_response_bytes is 1,000"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_request_over_budget_is_422_with_the_limit_and_its_value(model, model_dir, monkeypatch, limit):
    maximum, body, message = LIMITS[limit]
    with client_of(service_of(model, model_dir, **{limit: maximum})) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "run", None)
            assert_error(client.post(FILL, json=body), 422, "TooExpensive", message)
        if limit in ("max_candidates", "max_response_bytes"):  # targets limit the counted candidates
            targets = TWO_TEXTS | {"parameters": {"top_k": 50, "targets": ["rome", "paris"]}}
            assert client.post(FILL, json=targets).status_code == 200
    if limit != "max_response_bytes":
        with client_of(service_of(model, model_dir, **{limit: maximum + 1})) as client:
            assert client.post(FILL, json=body).status_code == 200


def test_the_largest_usual_requests_are_within_the_default_budget(roomy_client):
    texts = ["[MASK]" + " cat" * 45] * 32
    for body in (
        {"inputs": texts, "parameters": {"top_k": 100}},
        {"inputs": TEXT, "parameters": {"targets": ["cat"] * 1000}},
    ):
        assert roomy_client.post(FILL, json=body).status_code == 200


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


def test_fifty_thousand_lists_and_objects_are_parsed(roomy_client):
    for count, error_type in ((49_998, "Validation"), (49_999, "TooExpensive")):
        body = '{"inputs": [' + ",".join(["[]"] * count) + "]}"
        assert_error(roomy_client.post(FILL, content=body, headers=JSON), 422, error_type)


@pytest.mark.parametrize("path", [FILL, SCORE, ROOT])
@pytest.mark.parametrize("item", ["[]", "{}", "[[]]"])
def test_a_body_with_too_many_lists_or_objects_is_rejected_before_parsing(roomy_client, monkeypatch, path, item):
    body = '{"inputs": [' + ",".join([item] * 50_000) + "]}"
    with monkeypatch.context() as patch:
        patch.setattr("json.loads", None)
        response = roomy_client.post(path, content=body, headers=JSON)
    assert_error(response, 422, "TooExpensive")


@pytest.mark.anyio
@pytest.mark.parametrize("slow", ["encode", "decode"])
async def test_a_health_check_waits_neither_for_tokenization_nor_for_decoding(model, model_dir, monkeypatch, slow):
    started, gate, work = threading.Event(), threading.Event(), getattr(model, slow)

    def wait(*args):
        started.set()
        assert gate.wait(30)
        return work(*args)

    service = service_of(model, model_dir)
    await service.start()
    monkeypatch.setattr(model, slow, wait, raising=False)
    request = asyncio.create_task(service.answer(FillMaskRequest(inputs=["x [MASK]"] * 32).queries(), Budget()))
    await until(started.is_set)
    await service.check_health(timeout_s=30)
    assert not request.done()
    gate.set()
    await request
    await service.close()


def test_texts_of_a_large_request_keep_their_index_in_errors(roomy_client):
    texts = ["[MASK] " + "x" * 15_000] * 6
    assert_error(roomy_client.post(FILL, json={"inputs": [*texts, "no mask"]}), 422, "NoMask", "text 6")
