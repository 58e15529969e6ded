"""A task is served once it has an entry in the table of routes."""

from types import SimpleNamespace

import pytest

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.tasks.base import Task, TextQuery
from serve import routes
from serve.schemas import TextRequest
from serve.service import ModelService
from tests.serve.contract.clients import FILL, assert_error, client_of

PATH = "/v1/echo"


class Echo(Task):
    """Returns the words of a text."""

    name = "echo"
    probe = TextQuery("one word")

    def __init__(self):
        super().__init__(architecture="Echo", revision="r1", dtype="float32")

    @classmethod
    def load(cls, model_dir, *, precision="auto", threads=None):
        return cls()

    def encode(self, queries):
        return [SimpleNamespace(input_ids=query.text.split()) for query in queries]

    def run(self, encoded):
        return [each.input_ids for each in encoded]

    def decode(self, encoded, prediction):
        return prediction

    def response_bytes(self, encoded):
        return 10 * len(encoded.input_ids)


@pytest.fixture
def client(monkeypatch):
    tag = routes.Tag("Echo", "The words of a text.")
    form = routes.Endpoint(PATH, TextRequest, list[str], tag, "Repeat the words", "The words of a text, in order.")
    monkeypatch.setitem(routes.TASK_ROUTES, Echo.name, routes.TaskRoutes(Echo, (form,)))
    config = FillMaskAppConfig(task="echo", model_dir="none", limits={"max_request_tokens": 10})
    with client_of(ModelService(Echo(), config)) as client:
        yield client


@pytest.mark.parametrize(
    ("inputs", "answer"), [("to be", ["to", "be"]), (["to be", "or"], [["to", "be"], ["or"]]), (["to"], [["to"]])]
)
def test_a_new_task_answers_on_its_path(client, inputs, answer):
    response = client.post(PATH, json={"inputs": inputs})
    assert (response.status_code, response.json()) == (200, answer)
    assert response.headers["x-model-revision"] == "r1"
    assert PATH in client.get("/openapi.json").json()["paths"]
    assert f'route="{PATH}"' in client.get("/metrics").text


def test_a_new_task_has_the_common_limits_and_no_other_paths(client):
    assert_error(client.post(PATH, json={"inputs": "word " * 11}), 422, "TooExpensive")
    assert_error(client.post(FILL, json={"inputs": "a [MASK]"}), 404)


def test_an_unknown_task_is_an_input_error_that_names_the_others():
    with pytest.raises(InputError, match="task echo: choose one of fill-mask"):
        routes.routes_for_task("echo")
