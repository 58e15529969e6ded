"""Bodies as real clients send them, and errors that say which part of a body is wrong."""

import pytest

from tests.serve.contract.clients import FILL, SCORE, TEXT, assert_error

ROOT = "/"


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TEXT},
        {"inputs": TEXT, "parameters": {}},
        {"inputs": TEXT, "parameters": {"top_k": 2}, "options": {"use_cache": False}},
        {"inputs": [TEXT], "model": None},
    ],
)
def test_the_root_answers_hugging_faces_form_as_its_own_route_does(client, body):
    assert client.post(ROOT, json=body).json() == client.post(FILL, json=body).json()


@pytest.mark.parametrize(
    "body",
    [
        {"input_data": [TEXT]},
        {"input_data": TEXT},
        {"input_data": {"data": [[TEXT]]}},
        {"inputs": {"input_string": [TEXT]}},
        {"inputs": [TEXT], "params": {}},
        {"input_data": None, "inputs": [TEXT]},
    ],
)
def test_the_root_answers_azures_forms_as_their_own_route_does(client, body):
    assert client.post(ROOT, json=body).json() == client.post(SCORE, json=body).json()


def test_the_client_of_hugging_face_needs_the_address_alone(client, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    sent = []

    def post(self, request_parameters, **_):
        sent.append(request_parameters.url)
        return client.post(ROOT, json=request_parameters.json).content

    monkeypatch.setattr(hub.InferenceClient, "_inner_post", post)
    remote = hub.InferenceClient("http://127.0.0.1:8000")
    found = remote.fill_mask(TEXT, top_k=2, targets=["rome", "paris"])
    assert {each.token_str for each in found} == {"rome", "paris"}
    assert all("rome" in each.sequence or "paris" in each.sequence for each in found)
    assert len(remote.fill_mask(TEXT)) == 5
    assert {url.rstrip("/") for url in sent} == {"http://127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("path", "body", "location"),
    [
        (FILL, {"inputs": [TEXT, 5, TEXT]}, "inputs[1]: "),
        (FILL, {"inputs": {"a": 1}}, "inputs: "),
        (FILL, {"inputs": 5}, "inputs: "),
        (FILL, {"inputs": TEXT, "parameters": {"targets": ["a", None]}}, "parameters.targets[1]: "),
        (FILL, {"inputs": TEXT, "parameters": {"targets": 1}}, "parameters.targets: "),
        (FILL, {"inputs": TEXT, "parameters": {"top_k": "5"}}, "parameters.top_k: "),
        (FILL, {"parameters": {}}, "inputs: "),
        (SCORE, {"input_data": [TEXT, [TEXT]]}, "input_data[1]: "),
        (SCORE, {"input_data": {"data": [[TEXT], [7]]}}, "input_data.data[1][0]: "),
        (SCORE, {"input_data": {"data": [[TEXT], 7]}}, "input_data.data[1]: "),
        (SCORE, {"input_data": {"data": [[TEXT]], "index": [1, 1.5]}}, "input_data.index[1]: "),
        (SCORE, {"inputs": {"input_string": [TEXT, None]}}, "inputs.input_string[1]: "),
        (ROOT, {"inputs": [TEXT, 5]}, "inputs[1]: "),
        (ROOT, {"input_data": [TEXT, 5]}, "input_data[1]: "),
    ],
)
def test_an_error_begins_with_the_path_of_the_wrong_value(client, path, body, location):
    response = client.post(path, json=body)
    assert_error(response, 422)
    assert response.json()["error"].startswith(location)


@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        (FILL, {"inputs": TEXT, "parmeters": {}}, {"inputs", "parameters", "model", "options"}),
        (FILL, {"inputs": TEXT, "parameters": {"topk": 1}}, {"top_k", "targets"}),
        (SCORE, {"input": [TEXT]}, {"input_data", "inputs", "params", "model"}),
        (SCORE, {"input_data": {"data": [[TEXT]], "x": 1}}, {"columns", "index", "data", "parameters"}),
        (ROOT, {"inputs": TEXT, "x": 1}, {"inputs", "parameters", "model", "options"}),
    ],
)
def test_the_error_for_an_unknown_key_lists_the_known_ones(client, path, body, known):
    response = client.post(path, json=body)
    assert_error(response, 422)
    assert set(response.json()["error"].rpartition(": ")[2].split(", ")) == known


def test_the_document_states_the_limits_of_lists_and_texts(client, roomy_client):
    def limits(client):
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        texts = next(one for one in schemas["FillMaskRequest"]["properties"]["inputs"]["anyOf"] if "items" in one)
        targets = schemas["FillMaskParameters"]["properties"]["targets"]["anyOf"]
        return texts["minItems"], texts["maxItems"], texts["items"]["maxLength"], targets[1]["maxItems"]

    assert limits(roomy_client) == (1, 32, 20_000, 1000)
    assert limits(client)[:3] == (1, 4, 5000)
    assert "x-limits" not in client.get("/openapi.json").text
