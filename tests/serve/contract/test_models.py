"""The key `model` of a request selects the model."""

import pytest
from starlette.testclient import TestClient

from distilray.inference.tasks.fill_mask import FillMask
from serve.errors import ApiError
from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import FILL, SCORE, TEXT, assert_error, service_of
from tests.tiny.models import write_tiny_model

FORMS = [(FILL, "inputs"), (SCORE, "input_data"), ("/", "inputs")]


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("teacher"), "bert")


@pytest.fixture
def teacher(teacher_dir):
    return service_of(FillMask.load(teacher_dir, dtype="float32"), teacher_dir)


@pytest.fixture
def loads():
    return []


@pytest.fixture
def client(model, model_dir, teacher, loads):
    async def load(name):
        loads.append(name)
        if name == "broken":
            raise ApiError(503, "model broken cannot be loaded", headers={"retry-after": "60"})
        await teacher.start()
        return teacher

    models = Models(service_of(model, model_dir), name="student", others=("teacher", "broken"), load=load)
    with TestClient(create_api(models), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(("path", "key"), FORMS)
def test_an_unknown_model_is_404_and_the_served_ones_are_named(client, loads, path, key):
    response = client.post(path, json={key: [TEXT], "model": "SECRET"})
    assert_error(response, 404, "UnknownModel")
    assert "SECRET" not in response.text
    assert {"student", "teacher"} <= set(response.json()["error"].replace(",", "").split())
    assert loads == []


@pytest.mark.parametrize(("path", "key"), FORMS)
@pytest.mark.parametrize("named", [{}, {"model": None}, {"model": "student"}])
def test_the_default_model_answers_with_and_without_its_name(client, model, loads, path, key, named):
    response = client.post(path, json={key: [TEXT], **named})
    assert response.status_code == 200
    assert response.headers["x-model-revision"] == model.revision
    assert loads == []


@pytest.mark.parametrize(("path", "key"), FORMS)
def test_another_model_is_loaded_and_answers(client, teacher, loads, path, key):
    response = client.post(path, json={key: [TEXT], "model": "teacher"})
    best = teacher.task.fill([TEXT])[0][0][0].token_str
    assert best in response.text
    assert response.headers["x-model-revision"] == teacher.task.revision
    assert loads == ["teacher"]


def test_a_model_that_cannot_be_loaded_is_503_with_retry_after(client):
    response = client.post(FILL, json={"inputs": TEXT, "model": "broken"})
    assert_error(response, 503)
    assert response.headers["retry-after"] == "60"


def test_a_bad_request_for_an_unknown_model_is_404(client):
    assert_error(client.post(FILL, json={"inputs": "no mask", "model": "other"}), 404, "UnknownModel")


@pytest.mark.parametrize("name", ["", "m" * 129, 1, ["student"], True])
def test_an_invalid_name_is_422(client, name):
    assert_error(client.post(FILL, json={"inputs": TEXT, "model": name}), 422)


def test_info_names_the_models(client):
    info = client.get("/info").json()
    assert (info["model"], info["models"]) == ("student", ["student", "teacher", "broken"])


def test_the_metrics_distinguish_the_models(client):
    for name in ("student", "teacher"):
        client.post(FILL, json={"inputs": TEXT, "model": name})
    text = client.get("/metrics").text
    assert 'model="teacher"' in text
    assert 'model="student"' in text
