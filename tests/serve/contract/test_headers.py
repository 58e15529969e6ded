import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.serve.contract.clients import FILL, LIMITS, TEXT, assert_error


def test_an_answer_tells_its_times_and_revision(client, model):
    headers = client.post(FILL, json={"inputs": TEXT}).headers
    assert headers["x-model-revision"] == model.revision
    assert float(headers["x-inference-time"]) > 0
    assert float(headers["x-queue-time"]) >= 0


def test_a_plain_request_id_comes_back(client):
    assert client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"


def test_behind_a_proxy_that_sends_the_request_id_the_application_does_not(service):
    client = TestClient(create_api(Models(service), sends_request_id=False))
    response = client.get("/nowhere", headers={"x-request-id": "abc-1"})
    assert "x-request-id" not in response.headers
    assert response.json()["request_id"] == "abc-1"


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "<script>", "é", "a\tb"])
def test_another_request_id_is_replaced(client, given):
    found = client.get("/healthz", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert found != given
    assert len(found) == 32


def test_probes_and_info_answer(client, model):
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
def test_a_probe_may_ask_for_the_head_alone(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
