import re

import pytest

from tests.serve.contract.clients import FILL, JSON, TEXT, TWO, assert_close, assert_error


def as_bodies(answer):
    return [candidate._asdict() for candidate in answer]


def with_top_k(client, top_k):
    body = f'{{"inputs": "{TEXT}", "parameters": {{"top_k": {top_k}}}}}'
    return client.post(FILL, content=body, headers=JSON)


def with_targets(client, targets):
    return client.post(FILL, json={"inputs": TEXT, "parameters": {"targets": targets}})


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
    assert len(with_top_k(client, top_k).json()) == top_k


def test_top_k_100_is_answered_and_101_is_not(roomy_client, model):
    words = len(model.fill([TEXT], top_k=100)[0][0])  # of the tiny model, which has fewer than it may
    assert len(with_top_k(roomy_client, 100).json()) == words == 100
    assert_error(with_top_k(roomy_client, 101), 422)


@pytest.mark.parametrize(
    "top_k",
    ["0", "-1", "51", "101", "1.5", "5.0", '"5"', "true", "false", "1e999", "NaN", "-Infinity", "[]", "{}"],
)
def test_another_top_k_is_422(client, top_k):
    assert_error(with_top_k(client, top_k), 422)


def test_a_top_k_of_ten_thousand_digits_is_400(client):
    assert_error(with_top_k(client, "9" * 10_000), 400)


def test_targets_are_the_only_candidates(client):
    assert {one["token_str"] for one in with_targets(client, ["rome", "cat"]).json()} == {"rome", "cat"}


def test_a_target_that_is_named_twice_is_one_candidate(client):
    assert_close(with_targets(client, ["rome", "rome", "paris"]).json(), with_targets(client, ["rome", "paris"]).json())


def test_a_target_is_normalized_like_a_text(client):
    assert [one["token_str"] for one in with_targets(client, ["Paris"]).json()] == ["paris"]


def test_a_single_target_needs_no_list(client):
    assert_close(with_targets(client, "rome").json(), with_targets(client, ["rome"]).json())


@pytest.mark.parametrize("target", ["catfood", "house cat", "日本", " ", ""])
def test_a_target_outside_the_vocabulary_is_422_with_its_index(client, target):
    response = with_targets(client, ["rome", target, "paris"])
    assert_error(response, 422, "Targets")
    assert "targets[1]" in response.json()["error"]


def test_all_targets_outside_the_vocabulary_are_named(client):
    message = with_targets(client, ["rome", "catfood", "paris", "housecat"]).json()["error"]
    assert re.findall(r"\d", message) == ["1", "3"]


def test_a_target_may_have_fewer_candidates_than_top_k(client):
    parameters = {"targets": ["rome"], "top_k": 50}
    assert len(client.post(FILL, json={"inputs": TEXT, "parameters": parameters}).json()) == 1


@pytest.mark.parametrize(
    ("targets", "error_type"),
    [
        ([], "Validation"),
        ([" "], "Targets"),
        ([""], "Targets"),
        ("", "Targets"),
        ([1], "Validation"),
        ([None], "Validation"),
        (["a"] * 1001, "Validation"),
    ],
)
def test_targets_without_a_word_are_422(client, targets, error_type):
    assert_error(with_targets(client, targets), 422, error_type)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": 1},
        {"inputs": {"a": TEXT}},
        {"inputs": None},
        {"inputs": [None]},
        {"inputs": TEXT, "x": 1},
        {"inputs": TEXT, "parameters": []},
        {"inputs": TEXT, "parameters": {"x": 1}},
        {"inputs": TEXT, "model": ""},
        {"inputs": TEXT, "model": "m" * 129},
        [TEXT],
    ],
)
def test_another_fill_mask_body_is_422(client, body):
    assert_error(client.post(FILL, json=body), 422)


@pytest.mark.parametrize(
    "optional",
    [
        {"parameters": None},
        {"parameters": {"top_k": None, "targets": None}},
        {"model": None, "options": None},
        {"options": {"wait_for_model": True, "use_cache": False}},
    ],
)
def test_null_and_ignored_keys_are_the_defaults(client, optional):
    assert_close(
        client.post(FILL, json={"inputs": TEXT, **optional}).json(), client.post(FILL, json={"inputs": TEXT}).json()
    )
