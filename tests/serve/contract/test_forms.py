"""Formats of requests and responses: Hugging Face's at /v1/fill-mask, Azure's at /score, and both at the root."""

import json
import math
import os
import re

import pytest

from tests.serve.contract.clients import (
    FILL,
    JSON,
    ROOT,
    SCORE,
    TEXT,
    TWO,
    assert_close,
    assert_error,
    client_of,
    service_of,
)

DISTILBERT = os.environ.get("DISTILRAY_DISTILBERT_DIR")


def fill(client, inputs=TEXT, **parameters):
    return client.post(FILL, json={"inputs": inputs, "parameters": parameters})


def best_tokens(model, texts):
    return [",".join(candidates[0].token_str for candidates in answer) for answer in model.fill(texts)]


def test_one_mask_has_a_list_of_candidates_and_several_masks_a_list_each(client, model):
    assert_close(fill(client).json(), [one._asdict() for one in model.fill([TEXT])[0][0]])
    for mask, expected in zip(fill(client, TWO, top_k=2).json(), model.fill([TWO], top_k=2)[0], strict=True):
        assert_close(mask, [one._asdict() for one in expected])


@pytest.mark.parametrize("texts", [[TEXT], [TWO], [TEXT, TWO], [TWO, TEXT, TEXT]])
def test_the_shape_of_an_answer_does_not_depend_on_other_texts(client, texts):
    for together, text in zip(fill(client, texts).json(), texts, strict=True):
        alone = fill(client, text).json()
        masks = ([alone], [together]) if text == TEXT else (alone, together)
        for single, ours in zip(*masks, strict=True):
            assert_close(ours, single)


@pytest.mark.parametrize("top_k", [1, 2, 50])
def test_top_k_is_the_number_of_candidates(client, top_k):
    assert len(fill(client, top_k=top_k).json()) == top_k


def test_at_most_100_candidates_are_answered(roomy_client):
    assert len(fill(roomy_client, top_k=100).json()) == 100
    assert_error(fill(roomy_client, top_k=101), 422, message="parameters.top_k")


@pytest.mark.parametrize("top_k", [0, -1, 51, 101, 1.5, 5.0, "5", True, False, math.nan, -math.inf, [], {}])
def test_another_top_k_is_rejected(client, top_k):
    body = json.dumps({"inputs": TEXT, "parameters": {"top_k": top_k}})
    assert_error(client.post(FILL, content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["rome", "cat"], ["cat", "rome"]),
        (["rome", "rome", "paris"], ["paris", "rome"]),
        (["Paris"], ["paris"]),
        ("rome", ["rome"]),
    ],
    ids=["two", "duplicate", "normalized", "no list"],
)
def test_targets_are_the_only_candidates(client, targets, words):
    candidates = fill(client, targets=targets, top_k=50).json()
    assert sorted(one["token_str"] for one in candidates) == words


@pytest.mark.parametrize(
    ("targets", "error_type", "positions"),
    [
        *((["rome", target, "paris"], "Targets", ["1"]) for target in ("catfood", "house cat", "日本", " ", "")),
        (["rome", "catfood", "paris", "housecat"], "Targets", ["1", "3"]),
        ([" "], "Targets", ["0"]),
        ("", "Targets", ["0"]),
        ([], "Validation", None),
        ([1], "Validation", ["0"]),
        ([None], "Validation", ["0"]),
        (["a"] * 1001, "Validation", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_targets_outside_the_vocabulary_are_422_with_their_positions(client, targets, error_type, positions):
    response = fill(client, targets=targets)
    assert_error(response, 422, error_type, "targets")
    assert positions is None or re.findall(r"\d", response.json()["error"]) == positions


@pytest.mark.parametrize("path", [FILL, ROOT])
@pytest.mark.parametrize(
    "optional",
    [
        {"parameters": None},
        {"parameters": {"top_k": None, "targets": None}},
        {"model": None, "options": None},
        {"options": {"wait_for_model": True, "use_cache": False}},
    ],
    ids=str,
)
def test_optional_keys_have_defaults_and_options_are_ignored(client, path, optional):
    assert_close(client.post(path, json={"inputs": TEXT, **optional}).json(), fill(client).json())
    assert client.post(path, json={"inputs": [TEXT], **optional}).json() == [
        client.post(FILL, json={"inputs": TEXT}).json()
    ]


# Azure's formats


@pytest.mark.parametrize("path", [SCORE, ROOT])
@pytest.mark.parametrize(
    "body",
    [
        {"input_data": [TEXT, TWO]},
        {"input_data": None, "inputs": [TEXT, TWO]},
        {"inputs": [TEXT, TWO], "params": {}},
        {"input_data": {"columns": ["input_string"], "index": [0, 1], "data": [[TEXT], [TWO]]}, "params": {}},
        {"input_data": {"columns": [0], "index": ["a", 7], "data": [[TEXT], [TWO]], "parameters": {}}},
        {"input_data": {"columns": None, "index": None, "data": [[TEXT], [TWO]], "parameters": None}},
        {"input_data": {"input_string": [TEXT, TWO], "parameters": {}}},
        {"inputs": {"data": [TEXT, TWO]}},
    ],
    ids=str,
)
def test_every_azure_format_has_the_best_tokens_of_its_texts_in_order(client, model, path, body):
    assert client.post(path, json=body).json() == best_tokens(model, [TEXT, TWO])


@pytest.mark.parametrize(
    "body", [{"input_data": TEXT}, {"inputs": TEXT}, {"input_data": {"input_string": TEXT}}], ids=str
)
def test_a_single_text_is_answered_as_a_list_of_one(client, model, body):
    assert client.post(SCORE, json=body).json() == best_tokens(model, [TEXT])


def test_a_list_in_inputs_is_azures_format_at_score_and_hugging_faces_at_the_root(client, model):
    body = {"inputs": [TEXT, TWO]}
    assert client.post(SCORE, json=body).json() == best_tokens(model, [TEXT, TWO])
    assert client.post(ROOT, json=body).json() == client.post(FILL, json=body).json()


@pytest.mark.parametrize("path", [SCORE, ROOT])
def test_the_older_card_form_is_answered_with_row_objects(client, model, path):
    rows = client.post(path, json={"inputs": {"input_string": [TEXT, TWO]}}).json()
    assert rows == [{"0": token} for token in best_tokens(model, [TEXT, TWO])]


def test_the_client_of_hugging_face_only_needs_the_url(client, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    sent = []

    def post(self, request_parameters, **_):
        sent.append(request_parameters.url)
        return client.post(ROOT, json=request_parameters.json).content

    monkeypatch.setattr(hub.InferenceClient, "_inner_post", post)
    remote = hub.InferenceClient("http://127.0.0.1:8000")
    candidates = remote.fill_mask(TEXT, top_k=2, targets=["rome", "paris"])
    assert {each.token_str for each in candidates} == {"rome", "paris"}
    assert all("rome" in each.sequence or "paris" in each.sequence for each in candidates)
    assert len(remote.fill_mask(TEXT)) == 5
    assert {url.rstrip("/") for url in sent} == {"http://127.0.0.1:8000"}


# Invalid bodies


@pytest.mark.parametrize(
    ("path", "body", "start"),
    [
        (FILL, {}, "inputs: "),
        (FILL, {"inputs": 5}, "inputs: send a text or a list of texts"),
        (FILL, {"inputs": {"a": TEXT}}, "inputs: "),
        (FILL, {"inputs": [TEXT, 5, TEXT]}, "inputs[1]: "),
        (FILL, {"inputs": TEXT, "parameters": []}, "parameters: "),
        (FILL, {"inputs": TEXT, "parameters": {"targets": ["a", None]}}, "parameters.targets[1]: "),
        (FILL, {"inputs": TEXT, "parameters": {"targets": 1}}, "parameters.targets: send a word or a list of words"),
        (SCORE, {"input_data": {"data": [[TEXT]], "index": [1] * 1001}}, "input_data.index: too many entries; /info"),
        (FILL, {"inputs": TEXT, "parameters": {"top_k": "5"}}, "parameters.top_k: "),
        *((FILL, {"inputs": TEXT, "model": name}, "model: ") for name in ("", "m" * 129, 1, ["student"], True)),
        (FILL, [TEXT], ""),
        (SCORE, {}, "send either 'input_data' or 'inputs'"),
        (SCORE, {"input_data": [TEXT], "inputs": [TEXT]}, "send either 'input_data' or 'inputs'"),
        (SCORE, {"input_data": 7}, "input_data: send a text, a list of texts, or a table"),
        (SCORE, {"input_data": [TEXT, [TEXT]]}, "input_data[1]: "),
        (SCORE, {"input_data": {"data": TEXT}}, "input_data.data: "),
        (SCORE, {"input_data": {"data": [[TEXT], [7]]}}, "input_data.data[1][0]: "),
        (SCORE, {"input_data": {"data": [[TEXT], 7]}}, "input_data.data[1]: send a text, or a list with one text"),
        (SCORE, {"input_data": {"data": [[TEXT, TEXT]]}}, "input_data.data[0]: "),
        (SCORE, {"input_data": {"data": [[TEXT]], "columns": ["text"]}}, "input_data.columns[0]: "),
        (
            SCORE,
            {"input_data": {"data": [[TEXT]], "index": [1, 1.5]}},
            "input_data.index[1]: send a number or a string",
        ),
        *((SCORE, body, "") for body in ([TEXT], TEXT, None, 7)),
        (ROOT, {"inputs": [TEXT, 5]}, "inputs[1]: "),
        (ROOT, {"input_data": [TEXT, 5]}, "input_data[1]: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_starts_with_the_path_of_the_invalid_value(client, path, body, start):
    response = client.post(path, content=json.dumps(body), headers=JSON)
    assert_error(response, 422)
    assert response.json()["error"].startswith(start)


@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        (FILL, {"inputs": TEXT, "parmeters": {}}, "inputs, parameters, model, options"),
        (FILL, {"inputs": TEXT, "parameters": {"topk": 1}}, "top_k, targets"),
        (SCORE, {"input": [TEXT]}, "input_data, inputs, params, model"),
        (SCORE, {"input_data": {"data": [[TEXT]], "x": 1}}, "columns, index, data, parameters"),
        (SCORE, {"input_data": {"input_string": TEXT, "x": 1}}, "input_string, parameters"),
        (SCORE, {"input_data": {"input_string": TEXT, "data": [TEXT]}}, "columns, index, data, parameters"),
        (SCORE, {"input_data": [TEXT], "params": {"top_k": 3}}, "none"),
        (ROOT, {"inputs": TEXT, "x": 1}, "inputs, parameters, model, options"),
    ],
    ids=str,
)
def test_the_error_for_an_unknown_key_lists_the_known_ones(client, path, body, known):
    response = client.post(path, json=body)
    assert_error(response, 422)
    assert response.json()["error"].endswith(f"unknown key; known keys: {known}")


def test_the_document_states_the_limits_of_lists_and_texts(client, roomy_client):
    def limits(client):
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        texts = next(one for one in schemas["FillMaskRequest"]["properties"]["inputs"]["anyOf"] if "items" in one)
        parameters = schemas["FillMaskParameters"]["properties"]
        top_k = next(one for one in parameters["top_k"]["anyOf"] if "maximum" in one)
        targets = parameters["targets"]["anyOf"][1]["maxItems"]
        return texts["minItems"], texts["maxItems"], texts["items"]["maxLength"], top_k["maximum"], targets

    assert limits(roomy_client) == (1, 32, 20_000, 100, 1000)
    assert limits(client) == (1, 4, 5000, 50, 1000)
    assert "x-limits" not in client.get("/openapi.json").text


@pytest.mark.skipif(DISTILBERT is None, reason="DISTILRAY_DISTILBERT_DIR names no folder of the published DistilBERT")
def test_the_published_distilbert_gives_the_answer_of_its_model_card():
    from distilray.inference.tasks.fill_mask import FillMask  # imports torch

    with client_of(service_of(FillMask.load(DISTILBERT, precision="fp32"), DISTILBERT)) as client:
        assert client.post(SCORE, json={"input_data": ["Paris is [MASK] of France"]}).json() == ["part"]
