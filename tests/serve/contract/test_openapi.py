import pytest

from serve.auth import ApiKeys
from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import FILL, service_of
from tests.serve.contract.generated_requests import load_from_application, load_from_server, send_generated

LIMITS = {"max_body_bytes": 2000, "max_items": 4, "max_masks": 3, "max_top_k": 50, "max_chars": 200}
KEY = "a-key-of-the-tests"


def send_to_application(model, model_dir, *, keys=None, **config):
    api = create_api(Models(service_of(model, model_dir, **LIMITS)), keys=keys)
    return send_generated(load_from_application(api, **config))


def test_generated_requests_are_answered_as_the_document_says(model, model_dir):
    outcome = send_to_application(model, model_dir, max_examples=5)
    assert not outcome.faults
    assert outcome.requests >= 150
    assert {200, 404, 405, 415, 422} <= set(outcome.statuses)


def test_with_api_keys_the_document_holds_with_a_key_and_a_guarded_route_is_401_without(model, model_dir):
    keys = ApiKeys([KEY])
    outcome = send_to_application(model, model_dir, max_examples=5, boundaries=False, keys=keys, key=KEY)
    assert not outcome.faults
    assert {200, 401} <= set(outcome.statuses)


@pytest.mark.slow
def test_two_thousand_generated_requests_are_answered_as_the_document_says(model, model_dir):
    outcome = send_to_application(model, model_dir, max_examples=700)
    assert not outcome.faults
    assert outcome.requests >= 2000
    assert {200, 400, 404, 405, 413, 415, 422} <= set(outcome.statuses)
    assert outcome.statuses[200] >= 100  # the model was reached


@pytest.mark.slow
def test_a_server_answers_generated_requests_as_its_document_says(service_url):
    outcome = send_generated(load_from_server(service_url, max_examples=40, boundaries=False))
    assert not outcome.faults
    assert outcome.requests >= 100
    assert {200, 400, 422} <= set(outcome.statuses)


def test_the_document_names_every_status_of_a_form(client):
    statuses = set(client.get("/openapi.json").json()["paths"][FILL]["post"]["responses"])
    assert statuses == {"200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504"}


def test_every_operation_has_a_summary_and_one_described_tag(client):
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(len(operation["summary"].split()) > 2 for operation in operations)  # a function name has fewer words
    assert {tag["name"] for tag in document["tags"]} == {tag for operation in operations for tag in operation["tags"]}
    assert all(len(operation["tags"]) == 1 for operation in operations)
    assert all(tag["description"].strip().endswith(".") for tag in document["tags"])


def test_every_path_of_the_document_is_a_route_of_its_own_in_the_metrics(client):
    gateway = client.app.state.gateway
    paths = client.get("/openapi.json").json()["paths"]
    assert all(gateway.has_route({"type": "http", "path": path}) for path in paths)
