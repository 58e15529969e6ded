"""Headers of responses, probes, and the key `model` of a request, which selects the model."""

import pytest

from distilray.inference.tasks.fill_mask import FillMask
from serve.errors import ApiError
from serve.models import Models
from tests.serve.contract.clients import FILL, LIMITS, ROOT, SCORE, TEXT, assert_error, client_of, service_of
from tests.tiny.models import write_tiny_model

FORMATS = pytest.mark.parametrize(("path", "key"), [(FILL, "inputs"), (SCORE, "input_data"), (ROOT, "inputs")])


# One model


def test_a_response_contains_its_times_and_revision(client, model):
    headers = client.post(FILL, json={"inputs": TEXT}).headers
    assert headers["x-model-revision"] == model.revision
    assert float(headers["x-inference-time"]) > 0
    assert float(headers["x-queue-time"]) >= 0


def test_behind_a_proxy_that_sends_the_request_id_the_application_does_not(service):
    response = client_of(service, sends_request_id=False).get("/nowhere", headers={"x-request-id": "abc-1"})
    assert "x-request-id" not in response.headers
    assert response.json()["request_id"] == "abc-1"


def test_probes_and_info_respond(client, model):
    for path, status in (("/healthz", "alive"), ("/readyz", "ready")):
        assert client.get(path).json() == {"status": status}
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    info = client.get("/info").json()
    assert (info["revision"], info["dtype"]) == (model.revision, "float32")
    assert LIMITS.items() <= info["limits"].items()


def test_readyz_is_503_before_the_warm_up(model, model_dir):
    assert_error(client_of(service_of(model, model_dir)).get("/readyz"), 503)


# Several models


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return FillMask.load(write_tiny_model(tmp_path_factory.mktemp("teacher"), "bert"), precision="fp32")


@pytest.fixture
def loads():
    return []


@pytest.fixture
def several(model, model_dir, other, loads):
    """Client of a service of three models, one of which cannot be loaded."""

    async def load(name):
        loads.append(name)
        if name == "broken":
            raise ApiError(503, "model broken cannot be loaded", headers={"retry-after": "60"})
        service = service_of(other, model_dir)
        await service.start()
        return service

    with client_of(
        Models(service_of(model, model_dir), name="student", others=("teacher", "broken"), load=load)
    ) as client:
        yield client


@FORMATS
def test_an_unknown_model_is_404_and_the_served_ones_are_named(several, loads, path, key):
    for texts in ([TEXT], ["no mask"]):
        response = several.post(path, json={key: texts, "model": "SECRET"})
        assert_error(response, 404, "UnknownModel", "available models: student, teacher, broken")
        assert "SECRET" not in response.text
    assert loads == []


@FORMATS
def test_a_request_is_answered_by_the_model_that_it_names(several, model, other, loads, path, key):
    for named in ({}, {"model": None}, {"model": "student"}):
        response = several.post(path, json={key: [TEXT], **named})
        assert (response.status_code, response.headers["x-model-revision"]) == (200, model.revision)
        assert loads == []
    response = several.post(path, json={key: [TEXT], "model": "teacher"})
    assert other.fill([TEXT])[0][0][0].token_str in response.text
    assert response.headers["x-model-revision"] == other.revision
    assert loads == ["teacher"]
    metrics = several.get("/metrics").text
    for name, count in (("student", 3), ("teacher", 1)):
        labels = f'method="POST",model="{name}",replica="local",route="{path}",status="200"'
        assert f"fill_mask_requests_total{{{labels}}} {count}.0" in metrics


def test_a_model_that_cannot_be_loaded_is_503_with_retry_after(several):
    response = several.post(FILL, json={"inputs": TEXT, "model": "broken"})
    assert_error(response, 503)
    assert response.headers["retry-after"] == "60"


def test_info_names_the_models(several):
    info = several.get("/info").json()
    assert (info["model"], info["models"]) == ("student", ["student", "teacher", "broken"])
