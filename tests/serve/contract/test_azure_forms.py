import json

import pytest

from tests.serve.contract.clients import JSON, SCORE, TEXT, TWO, assert_error


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
        {"input_data": None, "inputs": [TEXT, TWO]},
        {"input_data": {"columns": ["input_string"], "index": [0, 1], "data": [[TEXT], [TWO]]}, "params": {}},
        {"input_data": {"columns": ["input_string"], "data": [[TEXT], [TWO]]}},
        {"input_data": {"data": [[TEXT], [TWO]]}, "params": None},
        {"input_data": {"data": [TEXT, [TWO]]}},
        {"input_data": {"columns": [0], "index": ["a", 7], "data": [[TEXT], [TWO]], "parameters": {}}},
        {"input_data": {"columns": None, "index": None, "data": [[TEXT], [TWO]], "parameters": None}},
        {"input_data": {"input_string": [TEXT, TWO], "parameters": {}}},
        {"inputs": {"data": [TEXT, TWO]}},
    ],
)
def test_the_other_azure_forms_answer_as_the_list_form(client, body):
    assert client.post(SCORE, json=body).json() == client.post(SCORE, json={"input_data": [TEXT, TWO]}).json()


@pytest.mark.parametrize("body", [{"input_data": TEXT}, {"inputs": TEXT}, {"input_data": {"input_string": TEXT}}])
def test_a_single_text_is_answered_as_a_list_of_one(client, body):
    assert client.post(SCORE, json=body).json() == client.post(SCORE, json={"input_data": [TEXT]}).json()


def test_the_older_card_form_answers_row_objects(client):
    rows = client.post(SCORE, json={"inputs": {"input_string": [TEXT, TWO]}}).json()
    assert rows == [{"0": token} for token in client.post(SCORE, json={"input_data": [TEXT, TWO]}).json()]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_data": {"data": TEXT}},
        {"input_data": {"input_string": TEXT, "data": [TEXT]}},
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
    assert_error(client.post(SCORE, content=json.dumps(body), headers=JSON), 422)
