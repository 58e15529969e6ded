import json
import threading
import time

import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from serve.errors import ERROR_TYPES
from serve.fill_mask import FillMaskService
from serve.models import Models
from serve.routes import create_api

TEXT = "paris is [MASK] of france"
TWO = "[MASK] is a [MASK]"
LIMITS = {"max_body_bytes": 20_000, "max_items": 4, "max_masks": 3, "max_top_k": 50, "max_chars": 5000}
FILL, SCORE = "/v1/fill-mask", "/score"


@pytest.fixture(scope="module")
def service(model, model_dir):
    return FillMaskService(model, FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": LIMITS}))


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_api(Models(service)), raise_server_exceptions=False) as client:
        yield client


def assert_error(response, status, error_type=None):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert body["error_type"] == (error_type or ERROR_TYPES[status])
    assert body["request_id"] == response.headers["x-request-id"]


def as_bodies(answer):
    return [candidate._asdict() for candidate in answer]


def assert_close(ours, theirs):
    assert [one | {"score": 0} for one in ours] == [one | {"score": 0} for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


# Azure's forms


@pytest.mark.parametrize("path", ["/score", "/"])
def test_the_azure_form_answers_the_best_token_of_every_text_in_order(client, model, path):
    texts = [TEXT, "the cat is [MASK]", TEXT]
    answer = client.post(path, json={"input_data": texts}).json()
    assert answer == [model.fill([text])[0][0][0].token_str for text in texts]


def test_the_azure_form_joins_the_tokens_of_several_masks_by_a_comma(client, model):
    expected = ",".join(candidates[0].token_str for candidates in model.fill([TWO])[0])
    assert client.post(SCORE, json={"input_data": [TWO]}).json() == [expected]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [TEXT, TWO]},
        {"input_data": {"columns": ["input_string"], "index": [0, 1], "data": [[TEXT], [TWO]]}, "params": {}},
        {"input_data": {"columns": ["input_string"], "data": [[TEXT], [TWO]]}},
    ],
)
def test_the_other_azure_forms_answer_as_the_list_form(client, body):
    assert client.post(SCORE, json=body).json() == client.post(SCORE, json={"input_data": [TEXT, TWO]}).json()


def test_the_older_card_form_answers_row_objects(client):
    rows = client.post(SCORE, json={"inputs": {"input_string": [TEXT, TWO]}}).json()
    assert rows == [{"0": token} for token in client.post(SCORE, json={"input_data": [TEXT, TWO]}).json()]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_data": TEXT},
        {"input_data": [TEXT], "inputs": [TEXT]},
        {"input_data": [1]},
        {"input_data": None},
        {"input_data": [[TEXT]]},
        {"input_data": [TEXT], "params": {"top_k": 3}},
        {"input_data": {"columns": ["text"], "data": [[TEXT]]}},
        {"input_data": {"columns": ["input_string"], "data": [[TEXT, TEXT]]}},
        [TEXT],
        TEXT,
        None,
        7,
    ],
)
def test_another_azure_body_is_422(client, body):
    headers = {"content-type": "application/json"}
    assert_error(client.post(SCORE, content=json.dumps(body), headers=headers), 422)


# Hugging Face's form


def test_one_text_with_one_mask_answers_a_list_of_candidates(client, model):
    assert_close(client.post(FILL, json={"inputs": TEXT}).json(), as_bodies(model.fill([TEXT])[0][0]))


def test_one_text_with_several_masks_answers_a_list_per_mask(client, model):
    ours = client.post(FILL, json={"inputs": TWO, "parameters": {"top_k": 2}}).json()
    for mask, expected in zip(ours, model.fill([TWO], top_k=2)[0], strict=True):
        assert_close(mask, as_bodies(expected))


@pytest.mark.parametrize("texts", [[TEXT], [TWO], [TEXT, TWO], [TWO, TEXT, TEXT]])
def test_the_shape_of_a_texts_answer_does_not_depend_on_its_company(client, texts):
    for ours, text in zip(client.post(FILL, json={"inputs": texts}).json(), texts, strict=True):
        alone = client.post(FILL, json={"inputs": text}).json()
        assert isinstance(ours[0], list) == isinstance(alone[0], list)
        for together, single in zip(ours, alone, strict=True):
            assert_close(*([x] if isinstance(x, dict) else x for x in (together, single)))


@pytest.mark.parametrize("top_k", [1, 2, 50])
def test_top_k_is_the_number_of_candidates(client, top_k):
    assert len(client.post(FILL, json={"inputs": TEXT, "parameters": {"top_k": top_k}}).json()) == top_k


@pytest.mark.parametrize("top_k", ["0", "-1", "51", "101", "1.5", "5.0", '"5"', "true", "1e999", "NaN", "null", "[]"])
def test_another_top_k_is_422(client, top_k):
    body = f'{{"inputs": "{TEXT}", "parameters": {{"top_k": {top_k}}}}}'
    assert_error(client.post(FILL, content=body, headers={"content-type": "application/json"}), 422)


def test_targets_are_the_only_candidates(client):
    parameters = {"targets": ["rome", "paris", "paris"], "top_k": 5}
    answer = client.post(FILL, json={"inputs": TEXT, "parameters": parameters}).json()
    assert {one["token_str"] for one in answer} == {"rome", "paris"}


@pytest.mark.parametrize(
    ("targets", "error_type"),
    [
        ([], "Validation"),
        ([" "], "Targets"),
        ("paris", "Validation"),
        ([1], "Validation"),
        (["a"] * 1001, "Validation"),
    ],
)
def test_targets_without_a_word_are_422(client, targets, error_type):
    assert_error(client.post(FILL, json={"inputs": TEXT, "parameters": {"targets": targets}}), 422, error_type)


@pytest.mark.parametrize(
    "body", [{}, {"inputs": 1}, {"inputs": {"a": TEXT}}, {"inputs": TEXT, "x": 1}, {"inputs": TEXT, "parameters": []}]
)
def test_another_fill_mask_body_is_422(client, body):
    assert_error(client.post(FILL, json=body), 422)


def test_null_parameters_are_the_defaults(client):
    answer = client.post(FILL, json={"inputs": TEXT, "parameters": None}).json()
    assert len(answer) == 5


# What both forms share


@pytest.mark.parametrize(("path", "key"), [(SCORE, "input_data"), (FILL, "inputs")])
@pytest.mark.parametrize(
    ("texts", "error_type"),
    [
        ([], "Empty"),
        ([TEXT] * 5, "Validation"),
        (["no mask"], "NoMask"),
        ([TEXT, ""], "NoMask"),
        (["   "], "NoMask"),
        (["[MASK] " * 4], "TooManyMasks"),
        (["[MASK] " + "cat " * 60], "TextTooLong"),
        (["[MASK]" + "a" * 5000], "TextTooLong"),
    ],
)
def test_a_text_beyond_the_rules_is_422_of_its_type(client, path, key, texts, error_type):
    assert_error(client.post(path, json={key: texts}), 422, error_type)


@pytest.mark.parametrize("path", [SCORE, FILL])
@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"\udc00\ud800"])
def test_a_lone_surrogate_is_422(client, path, surrogate):
    body = '{"inputs": ["[MASK] ' + surrogate + '"]}'
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert_error(response, 422, "Tokenizer")


def test_a_lone_surrogate_in_a_target_is_422(client):
    body = '{"inputs": "[MASK]", "parameters": {"targets": ["\\ud800"]}}'
    assert_error(client.post(FILL, content=body, headers={"content-type": "application/json"}), 422, "Tokenizer")


@pytest.mark.parametrize(
    "text", ["a\u0000b [MASK]", "שלום [MASK]", "👩‍👩‍👧 [MASK]", "é̂̃ [MASK]", "x" * 4000 + " [MASK]", "\u202e[MASK]"]
)
def test_unusual_text_is_answered(client, text):
    assert client.post(FILL, json={"inputs": text}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"inputs": "a [MASK]"', b"\xff\xfe", b'{"inputs": "\xff [MASK]"}', b"[" * 9000, b"x=1", b"9" * 9000],
)
def test_a_body_that_is_not_json_is_400(client, body):
    response = client.post(FILL, content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422} if body == b"" else response.status_code == 400, response.text
    assert_error(response, response.status_code)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", [SCORE, FILL])
def test_a_body_that_does_not_say_it_is_plain_json_is_415(client, path, headers):
    assert_error(client.post(path, content=b'{"inputs": ["[MASK]"]}', headers=headers), 415)


def test_json_with_its_charset_is_accepted(client):
    headers = {"content-type": "Application/JSON; charset=UTF-8"}
    assert client.post(FILL, content=b'{"inputs": "[MASK]"}', headers=headers).status_code == 200


def test_a_declared_length_beyond_the_limit_is_413(client):
    assert_error(client.post(FILL, json={"inputs": "a" * 20_000}), 413)


def test_a_body_without_declared_length_is_413_as_soon_as_it_passes_the_limit(client):
    read = 0

    def endless():
        nonlocal read
        for _ in range(1000):
            read += 1000
            yield b" " * 1000

    assert_error(client.post(FILL, content=endless(), headers={"content-type": "application/json"}), 413)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_405_and_names_the_allowed_one(client, method):
    response = client.request(method, FILL)
    assert_error(response, 405)
    assert "POST" in response.headers["allow"]


def test_an_unknown_path_is_404(client):
    assert_error(client.post("/v2/fill-mask", json={}), 404)


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


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "<script>"])
def test_another_request_id_is_replaced(client, given):
    found = client.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"]
    assert found != given
    assert len(found) == 32


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": ["SECRET"]}',
        '{"inputs": "SECRET"}',
        '{"inputs": ["[MASK]"], "SECRET": 1}',
        '{"inputs": ["[MASK]"], "params": {"SECRET": "SECRET"}}',
        '{"inputs": {"SECRET": 1}}',
        '{"inputs": "[MASK] SECRET \\ud800"}',
        '"SECRET"',
        "SECRET",
    ],
)
@pytest.mark.parametrize("path", [SCORE, FILL])
def test_an_error_never_repeats_the_input(client, path, body):
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}
    assert "SECRET" not in response.text


def test_a_fault_is_500_with_its_request_id_and_neither_detail_nor_input_in_the_log(
    client, service, monkeypatch, caplog
):
    secret = "".join(["SEC", "RET"])  # the stack in the log shows lines of code

    def fail(*_):
        raise RuntimeError(secret)

    monkeypatch.setattr(service.model, "fill_encoded", fail)
    response = client.post(FILL, json={"inputs": TEXT})
    assert_error(response, 500)
    assert "SECRET" not in response.text + caplog.text
    assert response.json()["request_id"] in caplog.text


# State


def test_probes_and_info_answer(client, model):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    info = client.get("/info").json()
    assert (info["revision"], info["dtype"]) == (model.revision, "float32")
    assert info["limits"]["max_items"] == LIMITS["max_items"]


def test_readyz_is_503_before_the_warm_up(model, model_dir):
    client = TestClient(create_api(Models(FillMaskService(model, FillMaskAppConfig(model_dir=model_dir)))))
    assert_error(client.get("/readyz"), 503)


def test_the_openapi_document_names_every_status_of_a_form(client):
    statuses = set(client.get("/openapi.json").json()["paths"][FILL]["post"]["responses"])
    assert {"200", "400", "413", "415", "422", "429", "500", "503", "504"} <= statuses


# Load


class SlowModel:
    """The tiny model with a gate in front of its forward."""

    def __init__(self, model):
        self._model, self.gate, self.batches = model, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def fill_encoded(self, encoded):
        self.batches.append(len(encoded))
        if len(self.batches) > 3:  # the warm-up passes
            assert self.gate.wait(30)
        return self._model.fill_encoded(encoded)


def slow_client(model, model_dir, **limits):
    slow = SlowModel(model)
    config = FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": limits})
    return slow, TestClient(create_api(Models(FillMaskService(slow, config))))


def in_threads(client, count, path=FILL):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.post(path, json={"inputs": [TEXT]})))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads, answers


def test_an_answer_past_the_deadline_is_504(model, model_dir):
    slow, client = slow_client(model, model_dir, deadline_s=0.2)
    with client:
        assert_error(client.post(FILL, json={"inputs": TEXT}), 504)
        slow.gate.set()


def test_more_requests_than_allowed_are_429_with_retry_after(model, model_dir):
    slow, client = slow_client(model, model_dir, max_concurrent_requests=2)
    with client:
        threads, answers = in_threads(client, 2)
        wait_for(lambda: len(slow.batches) > 3)
        time.sleep(0.2)
        response = client.post(FILL, json={"inputs": TEXT})
        assert_error(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
        slow.gate.set()
        for thread in threads:
            thread.join(30)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_more_waiting_tokens_than_allowed_are_429_and_not_ready(model, model_dir):
    slow, client = slow_client(model, model_dir, max_queued_tokens=7)
    with client:
        threads, answers = in_threads(client, 1)
        wait_for(lambda: len(slow.batches) > 3)
        more, more_answers = in_threads(client, 1)
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert_error(client.post(FILL, json={"inputs": TEXT}), 429)
        slow.gate.set()
        for thread in threads + more:
            thread.join(30)
    assert [answer.status_code for answer in answers + more_answers] == [200, 200]


def test_requests_that_arrive_during_a_forward_share_the_next_one(model, model_dir):
    slow, client = slow_client(model, model_dir)
    with client:
        first, answers = in_threads(client, 1)
        wait_for(lambda: len(slow.batches) > 3)
        others, other_answers = in_threads(client, 8)
        time.sleep(0.5)
        slow.gate.set()
        for thread in first + others:
            thread.join(30)
    assert slow.batches[3:] == [1, 8]
    assert {answer.status_code for answer in answers + other_answers} == {200}


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_of_one_batch_keep_their_own_parameters(model, model_dir):
    slow, client = slow_client(model, model_dir)
    found = {}

    def ask(top_k):
        body = {"inputs": TEXT, "parameters": {"top_k": top_k}}
        found[top_k] = len(json.loads(client.post(FILL, json=body).content))

    with client:
        threads = [threading.Thread(target=ask, args=(top_k,)) for top_k in (1, 3, 7, 20)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        slow.gate.set()
        for thread in threads:
            thread.join(30)
    assert found == {1: 1, 3: 3, 7: 7, 20: 20}
