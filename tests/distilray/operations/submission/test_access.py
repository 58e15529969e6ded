import pytest

from distilray.errors import InputError
from distilray.operations.submission.access import choose_address, choose_authentication


@pytest.mark.parametrize(
    ("given", "environment", "address"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        ("http://head:8265/", {"RAY_API_SERVER_ADDRESS": "http://other:1"}, "http://head:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "https://api", "RAY_ADDRESS": "http://other:1"}, "https://api"),
        (None, {"RAY_ADDRESS": "http://head:8265"}, "http://head:8265"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        (None, {"RAY_ADDRESS": "ray://head:10001"}, "http://127.0.0.1:8265"),
        ("head:8265", {}, "http://head:8265"),
    ],
)
def test_the_address_is_the_one_that_was_named_last(given, environment, address):
    assert choose_address(given, environment) == address


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://head", "http://", "http://head:8265?x=1"])
def test_an_address_of_something_else_is_refused_with_the_form(address):
    with pytest.raises(InputError, match=r"http://HOST:PORT"):
        choose_address(address, {})


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(InputError) as refused:
        choose_address("http://me:geheim@head:8265", {})
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "file", "mode"),
    [
        ({}, None, None),
        ({}, "", None),
        ({}, "0f", "token"),
        ({"RAY_AUTH_TOKEN": "0f"}, None, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, None, "token"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "0f"}, "0f", "disabled"),
    ],
    ids=["no token", "an empty file", "a file", "a variable", "a path", "the user says no"],
)
def test_a_token_is_shown_where_there_is_one_unless_the_user_says_otherwise(environment, file, mode, tmp_path):
    if file is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(file)
    choose_authentication(environment, tmp_path)
    assert environment.get("RAY_AUTH_MODE") == mode
