"""The table of bad requests, in process; `test_bad_wire.py` holds what depends on the HTTP server."""

import gzip
import json
import time

import pytest

from tests.serve.contract.clients import FILL, JSON, SCORE, TEXT, assert_error
from tests.serve.contract.raw_asgi import ask, parts

OK = json.dumps({"inputs": TEXT}).encode()
PLAIN = "application/json"
BODIES = {
    "empty": (b"", 422, "Validation"),
    "truncated": (b'{"inputs": "a [MASK]"', 400, "InvalidJson"),
    "an open brace": (b"{", 400, "InvalidJson"),
    "spaces": (b" " * 9000, 400, "InvalidJson"),
    "a form": (b"x=1", 400, "InvalidJson"),
    "two documents": (OK + OK, 400, "InvalidJson"),
    "single quotes": (b"{'inputs': '[MASK]'}", 400, "InvalidJson"),
    "a trailing comma": (b'{"inputs": "[MASK]",}', 400, "InvalidJson"),
    "a control character": (b'{"inputs": "\n[MASK]"}', 400, "InvalidJson"),
    "two bytes that are no text": (b"\xff\xfe", 400, "InvalidJson"),
    "a byte that is no text": (b'{"inputs": "\xff [MASK]"}', 400, "InvalidJson"),
    "gzip that is not declared": (gzip.compress(OK), 400, "InvalidJson"),
    "a number of 9000 digits": (b"9" * 9000, 400, "InvalidJson"),
    "9000 open brackets": (b"[" * 9000, 400, "InvalidJson"),
    "9000 brackets": (b"[" * 9000 + b"]" * 9000, 400, "InvalidJson"),
    "NaN": (b"NaN", 422, "Validation"),
    "Infinity as text": (b'{"inputs": Infinity}', 422, "Validation"),
    "null": (b"null", 422, "Validation"),
    "true": (b"true", 422, "Validation"),
    "a number": (b"7", 422, "Validation"),
    "a list": (b'["[MASK]"]', 422, "Validation"),
    "too many bytes": (b" " * 20_001, 413, "BodyTooLarge"),
}
MEDIA_TYPES = {
    "none": {},
    "text": {"content-type": "text/plain"},
    "a form": {"content-type": "application/x-www-form-urlencoded"},
    "a longer name": {"content-type": "application/jsonp"},
    "another charset": {"content-type": "application/json; charset=latin-1"},
    "UTF-16": {"content-type": "application/json; charset=utf-16"},
    "gzip": {"content-type": PLAIN, "content-encoding": "gzip"},
    "two encodings": {"content-type": PLAIN, "content-encoding": "identity, br"},
}


@pytest.mark.parametrize("path", [SCORE, FILL])
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_has_its_status_and_type(client, path, name):
    body, status, error_type = BODIES[name]
    assert_error(client.post(path, content=body, headers=JSON), status, error_type)


@pytest.mark.parametrize("path", [SCORE, FILL])
@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_a_body_that_does_not_say_it_is_plain_json_is_415(client, path, name):
    assert_error(client.post(path, content=OK, headers=MEDIA_TYPES[name]), 415)


@pytest.mark.parametrize(
    "media_type",
    [PLAIN, "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', f"{PLAIN} ", f"{PLAIN};"],
)
def test_json_that_says_so_is_accepted(client, media_type):
    assert client.post(FILL, content=OK, headers={"content-type": media_type}).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_json_in_another_encoding_of_unicode_is_recognised(client, encoding):
    body = OK.decode().encode(encoding)
    assert client.post(FILL, content=body, headers=JSON).json() == client.post(FILL, content=OK, headers=JSON).json()


def test_of_a_key_that_is_named_twice_the_last_counts(client):
    body = b'{"inputs": 7, "inputs": "paris is [MASK] of france"}'
    assert client.post(FILL, content=body, headers=JSON).json() == client.post(FILL, content=OK, headers=JSON).json()


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_hundred_thousand_levels_are_400_in_well_under_a_second(roomy_client, opening):
    began = time.monotonic()
    assert_error(roomy_client.post(FILL, content=opening * 100_000, headers=JSON), 400)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_405_and_names_the_allowed_one(client, method):
    response = client.request(method, FILL)
    assert_error(response, 405)
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/v2/fill-mask", "/score/", "/v1/fill-mask/x", "/V1/FILL-MASK", "/%00", "/..%2fscore"]
)
def test_an_unknown_path_is_404(client, path):
    assert_error(client.post(path, json={}, follow_redirects=False), 404)


# Bodies by the message


def ask_raw(client, messages, headers):
    return client.portal.call(lambda: ask(client.app, messages, headers=headers))


def test_a_declared_length_beyond_the_limit_is_413_before_anything_is_read(client):
    reply = ask_raw(
        client, parts(b" " * 30_000), [(b"content-type", b"application/json"), (b"content-length", b"20001")]
    )
    assert_error(reply, 413)
    assert reply.read == 0


def test_a_body_without_length_is_413_as_soon_as_it_passes_the_limit(client):
    reply = ask_raw(client, parts(*[b" " * 1000] * 1000), [(b"content-type", b"application/json")])
    assert_error(reply, 413)
    assert reply.read == 21


@pytest.mark.parametrize("length", [b"", b"-1", b"abc", b"1e3", "٣".encode(), b"1, 2", b"0x10"])
def test_a_length_that_is_no_number_does_not_pass_the_limit(client, length):
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    assert_error(ask_raw(client, parts(*[b" " * 1000] * 1000), headers), 413)


def test_a_length_of_a_hundred_digits_is_413(client):
    headers = [(b"content-type", b"application/json"), (b"content-length", b"0" * 80 + b"9" * 20)]
    assert_error(ask_raw(client, parts(*[b" " * 1000] * 1000), headers), 413)


def test_a_body_in_many_pieces_is_answered_as_a_whole(client):
    pieces = [OK[at : at + 1] for at in range(len(OK))]
    reply = ask_raw(client, parts(*pieces, b""), [(b"content-type", b"application/json")])
    assert reply.json() == client.post(FILL, content=OK, headers=JSON).json()


def test_headers_that_are_no_text_are_not_a_fault(client):
    headers = [(b"content-type", b"application/json\xff"), (b"x-request-id", b"\xff\x00")]
    assert_error(ask_raw(client, parts(OK), headers), 415)
