import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.serve.contract.clients import FILL, LIMITS, TEXT, assert_error


def test_a_response_contains_its_times_and_revision(client, model):
    headers = client.post(FILL, json={"inputs": TEXT}).headers
    assert headers["x-model-revision"] == model.revision
    assert float(headers["x-inference-time"]) > 0
    assert float(headers["x-queue-time"]) >= 0


def test_a_valid_request_id_is_returned(client):
    assert client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"


def test_behind_a_proxy_that_sends_the_request_id_the_application_does_not(service):
    client = TestClient(create_api(Models(service), sends_request_id=False))
    response = client.get("/nowhere", headers={"x-request-id": "abc-1"})
    assert "x-request-id" not in response.headers
    assert response.json()["request_id"] == "abc-1"


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 200, "<script>", "é", "a\tb"])
def test_an_invalid_request_id_is_replaced(client, client_id):
    new_id = client.get("/healthz", headers={"x-request-id": client_id.encode()}).headers["x-request-id"]
    assert new_id != client_id
    assert len(new_id) == 32


def test_probes_and_info_respond(client, model):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    info = client.get("/info").json()
    assert (info["revision"], info["dtype"]) == (model.revision, "float32")
    assert info["limits"]["max_items"] == LIMITS["max_items"]


def test_readyz_is_503_with_retry_after_before_the_warm_up(model, model_dir):
    client = TestClient(create_api(Models(ModelService(model, FillMaskAppConfig(model_dir=model_dir)))))
    response = client.get("/readyz")
    assert_error(response, 503)
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_can_use_head_requests(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
