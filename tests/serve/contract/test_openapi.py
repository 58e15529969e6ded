import pytest
import schemathesis

from serve.auth import ApiKeys
from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import FILL, service_of
from tests.serve.contract.generated_requests import config_of, send_generated

LIMITS = {"max_body_bytes": 2000, "max_items": 4, "max_masks": 3, "max_top_k": 50, "max_chars": 200}
KEY = "a-key-of-the-tests"


@pytest.mark.parametrize(
    ("keys", "options", "statuses"),
    [
        (ApiKeys([KEY]), {"max_examples": 5, "boundaries": False, "key": KEY}, {200, 401}),
        pytest.param(None, {"max_examples": 300}, {200, 400, 404, 405, 413, 415, 422}, marks=pytest.mark.slow),
    ],
    ids=["a few with keys", "a thousand with boundaries"],
)
def test_responses_to_generated_requests_match_the_document(model, model_dir, keys, options, statuses):
    api = create_api(Models(service_of(model, model_dir, **LIMITS)), keys=keys)
    counts = send_generated(schemathesis.openapi.from_asgi("/openapi.json", api, config=config_of(**options)))
    assert statuses <= set(counts)
    assert counts.total() >= 3 * options["max_examples"]
    assert counts[200] > options["max_examples"] / 7  # the model was reached


def test_the_document_lists_every_status_of_an_endpoint(client):
    statuses = set(client.get("/openapi.json").json()["paths"][FILL]["post"]["responses"])
    assert statuses == {"200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504"}


def test_every_operation_has_a_summary_and_one_described_tag(client):
    document = client.get("/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(len(operation["summary"].split()) > 2 for operation in operations)  # a function name has fewer words
    assert {tag["name"] for tag in document["tags"]} == {tag for operation in operations for tag in operation["tags"]}
    assert all(len(operation["tags"]) == 1 for operation in operations)
    assert all(tag["description"].strip().endswith(".") for tag in document["tags"])
