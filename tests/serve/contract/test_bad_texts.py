import json

import pytest

from tests.serve.contract.clients import FILL, JSON, SCORE, TEXT, assert_error

SECRET = "SECRET"


@pytest.mark.parametrize(("path", "key"), [(SCORE, "input_data"), (FILL, "inputs")])
@pytest.mark.parametrize(
    ("texts", "error_type"),
    [
        ([], "Empty"),
        ([TEXT] * 5, "Validation"),
        (["no mask"], "NoMask"),
        ([TEXT, ""], "NoMask"),
        (["   "], "NoMask"),
        (["[mask]"], "NoMask"),
        (["[MASK"], "NoMask"),
        (["[MASK] " * 4], "TooManyMasks"),
        (["[MASK] " + "cat " * 60], "TextTooLong"),
        (["[MASK]" + "a" * 5000], "TextTooLong"),
    ],
)
def test_a_text_beyond_the_rules_is_422_of_its_type(client, path, key, texts, error_type):
    assert_error(client.post(path, json={key: texts}), 422, error_type)


def test_32_texts_are_answered_and_33_are_not(roomy_client):
    assert len(roomy_client.post(SCORE, json={"input_data": [TEXT] * 32}).json()) == 32
    assert_error(roomy_client.post(SCORE, json={"input_data": [TEXT] * 33}), 422)


def test_a_text_of_masks_alone_is_answered_up_to_their_limit(client):
    assert len(client.post(FILL, json={"inputs": "[MASK]" * 3}).json()) == 3
    assert_error(client.post(FILL, json={"inputs": "[MASK]" * 4}), 422, "TooManyMasks")


def test_a_word_of_a_million_letters_is_422(roomy_client):
    assert_error(roomy_client.post(FILL, json={"inputs": "x" * 1_000_000 + " [MASK]"}), 422, "TextTooLong")


def test_an_error_names_the_place_of_the_text(client):
    assert "text 2" in client.post(FILL, json={"inputs": [TEXT, TEXT, "none"]}).json()["error"]


@pytest.mark.parametrize("path", [SCORE, FILL])
@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"\udc00\ud800"])
def test_a_lone_surrogate_is_422(client, path, surrogate):
    body = '{"inputs": ["[MASK] ' + surrogate + '"]}'
    assert_error(client.post(path, content=body, headers=JSON), 422, "Tokenizer")


@pytest.mark.parametrize(
    "body",
    [
        r'{"inputs": "[MASK]", "parameters": {"targets": ["\ud800"]}}',
        r'{"inputs": "[MASK]", "model": "\ud800"}',
    ],
)
def test_a_lone_surrogate_beside_the_text_is_422(client, body):
    assert_error(client.post(FILL, content=body, headers=JSON), 422, "Tokenizer")


def test_a_surrogate_pair_is_a_character(client):
    body = r'{"inputs": "\ud83d\ude42 [MASK]"}'
    assert client.post(FILL, content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": ["SECRET"]}',
        '{"inputs": "SECRET"}',
        '{"inputs": ["[MASK]"], "SECRET": 1}',
        '{"inputs": ["[MASK]"], "params": {"SECRET": "SECRET"}}',
        '{"inputs": ["[MASK]"], "model": "SECRET"}',
        '{"inputs": {"SECRET": 1}}',
        '{"input_data": {"columns": ["SECRET"], "data": [["SECRET"]]}}',
        '{"inputs": "[MASK] SECRET \\ud800"}',
        '{"inputs": "[MASK]", "parameters": {"targets": "SECRET"}}',
        '{"inputs": "[MASK]", "parameters": {"top_k": "SECRET"}}',
        '"SECRET"',
        "SECRET",
    ],
)
@pytest.mark.parametrize("path", [SCORE, FILL])
def test_an_error_never_repeats_the_input(client, path, body):
    response = client.post(path, content=body, headers=JSON)
    assert response.status_code in {400, 404, 422}
    assert SECRET not in response.text


def test_an_unknown_path_is_not_repeated(client):
    assert SECRET not in client.get(f"/{SECRET}?{SECRET}").text


def test_a_fault_is_500_with_its_request_id_and_neither_detail_nor_input_in_the_log(
    client, service, monkeypatch, caplog
):
    secret = "".join(["SEC", "RET"])  # the stack in the log shows lines of code

    def fail(*_):
        raise RuntimeError(secret)

    monkeypatch.setattr(service.task, "run", fail)
    response = client.post(FILL, json={"inputs": TEXT})
    assert_error(response, 500)
    assert SECRET not in response.text + caplog.text
    assert response.json()["request_id"] in caplog.text


@pytest.mark.parametrize("text", ["\x1b[31mSECRET", "SECRET\n{}", "SECRET\u2028", "SECRET " * 800])
def test_a_text_is_in_no_line_of_the_log(client, caplog, text):
    caplog.set_level("DEBUG", "serve")
    client.post(FILL, content=json.dumps({"inputs": text}), headers=JSON)
    client.post(FILL, content=json.dumps({"inputs": f"{text} [MASK]"}), headers=JSON)
    assert SECRET not in caplog.text
