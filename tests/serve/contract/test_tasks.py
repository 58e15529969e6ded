"""A task is served once it has a row in the table of routes."""

import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.tasks.base import Task, TextQuery
from serve import routes
from serve.models import Models
from serve.schemas import TextRequest
from serve.service import ModelService
from tests.serve.contract.clients import assert_error

PATH = "/v1/echo"


class Words:
    def __init__(self, text):
        self.words, self.input_ids = text.split(), range(len(text.split()))


class Echo(Task):
    """Answers a text with its words."""

    name = "echo"
    probe = TextQuery("one word")

    def __init__(self):
        super().__init__(architecture="Echo", revision="r1", dtype="float32")

    @classmethod
    def load(cls, model_dir, *, dtype="auto", threads=None):
        return cls()

    def encode(self, queries):
        return [Words(query.text) for query in queries]

    def run(self, encoded):
        return [each.words for each in encoded]

    def decode(self, encoded, prediction):
        return prediction

    def response_bytes(self, encoded):
        return 10 * len(encoded.words)


@pytest.fixture
def client(monkeypatch):
    tag = routes.Tag("Echo", "The words of a text.")
    form = routes.Endpoint(PATH, TextRequest, list[str], tag, "Repeat the words", "The words of a text, in order.")
    monkeypatch.setitem(routes.TASK_ROUTES, Echo.name, routes.TaskRoutes(Echo, (form,)))
    config = FillMaskAppConfig(task="echo", model_dir="none", limits={"max_request_tokens": 10})
    with TestClient(routes.create_api(Models(ModelService(Echo(), config)))) as client:
        yield client


@pytest.mark.parametrize(
    ("inputs", "answer"), [("to be", ["to", "be"]), (["to be", "or"], [["to", "be"], ["or"]]), (["to"], [["to"]])]
)
def test_a_new_task_answers_on_its_path(client, inputs, answer):
    response = client.post(PATH, json={"inputs": inputs})
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["x-model-revision"] == "r1"


def test_a_new_task_keeps_the_limits(client):
    assert_error(client.post(PATH, json={"inputs": "word " * 11}), 422, "TooExpensive")


def test_a_new_task_is_in_the_document_and_the_metrics(client):
    client.post(PATH, json={"inputs": "to be"})
    assert PATH in client.get("/openapi.json").json()["paths"]
    assert f'route="{PATH}"' in client.get("/metrics").text


def test_the_paths_of_other_tasks_are_not_served(client):
    assert_error(client.post("/v1/fill-mask", json={"inputs": "a [MASK]"}), 404)


def test_a_task_without_a_row_is_an_input_error_that_names_the_others():
    with pytest.raises(InputError, match="fill-mask"):
        routes.routes_for_task("echo")
