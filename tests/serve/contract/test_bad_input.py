"""Invalid requests, in process; `test_running_service.py` tests those that depend on the HTTP server."""

import gzip
import json

import pytest

from tests.serve.contract.clients import FILL, JSON, SCORE, TEXT, assert_error
from tests.serve.contract.raw_asgi import ask, parts

OK = json.dumps({"inputs": TEXT}).encode()
PLAIN = "application/json"
NOT_JSON = (400, "InvalidJson", "the body is not JSON")
INVALID = (422, "Validation", "")
BODIES = {
    "empty": (b"", 422, "Validation", "the body is empty; send JSON"),
    "truncated": (b'{"inputs": "a [MASK]"', *NOT_JSON),
    "as many bytes as allowed": (b" " * 20_000, *NOT_JSON),
    "two documents": (OK + OK, *NOT_JSON),
    "a trailing comma": (b'{"inputs": "[MASK]",}', *NOT_JSON),
    "a control character": (b'{"inputs": "\n[MASK]"}', *NOT_JSON),
    "a byte that is no text": (b'{"inputs": "\xff [MASK]"}', *NOT_JSON),
    "gzip that is not declared": (gzip.compress(OK), *NOT_JSON),
    "a number of 9000 digits": (b"9" * 9000, *NOT_JSON),
    "9000 brackets": (b"[" * 9000 + b"]" * 9000, *NOT_JSON),
    "NaN": (b"NaN", *INVALID),
    "null": (b"null", *INVALID),
    "a list": (b'["[MASK]"]', *INVALID),
    "too many bytes": (b" " * 20_001, 413, "BodyTooLarge", "larger than 20,000 bytes"),
}
MEDIA_TYPES = {
    "none": {},
    "text": {"content-type": "text/plain"},
    "a longer name": {"content-type": "application/jsonp"},
    "another charset": {"content-type": "application/json; charset=latin-1"},
    "gzip": {"content-type": PLAIN, "content-encoding": "gzip"},
    "two encodings": {"content-type": PLAIN, "content-encoding": "identity, br"},
}
both_paths = pytest.mark.parametrize("path", [SCORE, FILL])


@both_paths
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_has_its_status_and_type(client, path, name):
    body, *expected = BODIES[name]
    assert_error(client.post(path, content=body, headers=JSON), *expected)


@both_paths
@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_a_body_that_is_not_declared_as_plain_json_is_415(client, path, name):
    assert_error(client.post(path, content=OK, headers=MEDIA_TYPES[name]), 415)


@pytest.mark.parametrize(
    "media_type",
    [PLAIN, "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', f"{PLAIN} ", f"{PLAIN};"],
)
def test_json_media_types_are_accepted(client, media_type):
    headers = {"content-type": media_type, "content-encoding": "Identity"}
    assert client.post(FILL, content=OK, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "body",
    [*(OK.decode().encode(name) for name in ("utf-8-sig", "utf-16", "utf-32-le")), b'{"inputs": 7, ' + OK[1:]],
    ids=["UTF-8 with signature", "UTF-16", "UTF-32", "the last of duplicate keys"],
)
def test_unusual_json_is_parsed(client, body):
    assert client.post(FILL, content=body, headers=JSON).json() == client.post(FILL, content=OK, headers=JSON).json()


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_hundred_thousand_levels_are_not_json(roomy_client, opening):
    assert_error(roomy_client.post(FILL, content=opening * 100_000, headers=JSON), 400)


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


# Lengths


def ask_raw(client, messages, *headers):
    headers = [(b"content-type", b"application/json"), *headers]
    return client.portal.call(lambda: ask(client.app, messages, headers=headers))


@pytest.mark.parametrize(
    ("length", "messages_read"),
    [
        (b"20001", 0),
        (b"0" * 80 + b"9" * 20, 21),  # the first twenty digits count
        *((length, 21) for length in (b"", b"-1", b"abc", b"1e3", "٣".encode(), b"1, 2", b"0x10")),
    ],
    ids=str,
)
def test_a_body_beyond_the_limit_is_413_without_reading_more_of_it(client, length, messages_read):
    reply = ask_raw(client, parts(*[b" " * 1000] * 1000), (b"content-length", length))
    assert_error(reply, 413)
    assert reply.sent == messages_read


def test_a_body_in_many_messages_is_accepted(client):
    reply = ask_raw(client, parts(*[OK[at : at + 1] for at in range(len(OK))], b""))
    assert reply.json() == client.post(FILL, content=OK, headers=JSON).json()


def test_binary_headers_are_not_an_internal_error(client):
    headers = [(b"content-type", b"application/json\xff"), (b"x-request-id", b"\xff\x00")]
    assert_error(client.portal.call(lambda: ask(client.app, parts(OK), headers=headers)), 415)


# Texts


@pytest.mark.parametrize(("path", "key"), [(SCORE, "input_data"), (FILL, "inputs")])
@pytest.mark.parametrize(
    ("texts", "error_type", "message"),
    [
        ([], "Empty", "no text"),
        ([TEXT] * 5, "Validation", "5 texts; send at most 4"),
        (["no mask"], "NoMask", "text 0"),
        ([TEXT, TEXT, ""], "NoMask", "text 2"),
        (["   "], "NoMask", ""),
        (["[mask]"], "NoMask", ""),
        ([TEXT, "[MASK] " * 4], "TooManyMasks", "text 1: 4 masks; send at most 3"),
        (["[MASK] " + "cat " * 60], "TextTooLong", ""),
        ([TEXT, "[MASK]" + "a" * 4995], "TextTooLong", "text 1: 5,001 characters; send at most 5,000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_invalid_text_is_422_with_its_type_and_index(client, path, key, texts, error_type, message):
    assert_error(client.post(path, json={key: texts}), 422, error_type, message)


def test_texts_and_masks_are_answered_up_to_their_limits(client, roomy_client):
    assert len(client.post(FILL, json={"inputs": "[MASK]" * 3}).json()) == 3
    assert client.post(FILL, json={"inputs": "[MASK] " + "a" * 4993}).status_code == 200
    assert len(roomy_client.post(SCORE, json={"input_data": [TEXT] * 32}).json()) == 32
    assert_error(roomy_client.post(SCORE, json={"input_data": [TEXT] * 33}), 422)
    assert_error(roomy_client.post(FILL, json={"inputs": "x" * 1_000_000 + " [MASK]"}), 422, "TextTooLong")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(
            (path, '{"inputs": ["[MASK] ' + surrogate + '"]}')
            for path in (SCORE, FILL)
            for surrogate in (r"\ud800", r"\udfff", r"\udc00\ud800")
        ),
        (FILL, r'{"inputs": "[MASK]", "parameters": {"targets": ["\ud800"]}}'),
        (FILL, r'{"inputs": "[MASK]", "model": "\ud800"}'),
    ],
)
def test_an_unpaired_surrogate_is_422(client, path, body):
    assert_error(client.post(path, content=body, headers=JSON), 422, "Tokenizer", "surrogate")


def test_a_surrogate_pair_is_a_character(client):
    body = r'{"inputs": "\ud83d\ude42 [MASK]"}'
    assert client.post(FILL, content=body, headers=JSON).status_code == 200


# Privacy

SECRET = "SECRET"


@both_paths
@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": ["SECRET"]}',
        '{"inputs": ["[MASK]"], "SECRET": 1}',
        '{"inputs": ["[MASK]"], "params": {"SECRET": "SECRET"}}',
        '{"inputs": ["[MASK]"], "model": "SECRET"}',
        '{"inputs": {"SECRET": 1}}',
        '{"input_data": {"columns": ["SECRET"], "data": [["SECRET"]]}}',
        '{"inputs": "[MASK] SECRET \\ud800"}',
        '{"inputs": "[MASK]", "parameters": {"targets": "SECRET"}}',
        '{"inputs": "[MASK]", "parameters": {"top_k": "SECRET"}}',
        "SECRET",
    ],
)
def test_an_error_never_repeats_the_input(client, path, body):
    response = client.post(path, content=body, headers=JSON)
    assert response.status_code in {400, 404, 422}
    assert SECRET not in response.text + client.get(f"/{SECRET}?{SECRET}").text


def test_an_exception_is_500_with_its_request_id_and_no_details_or_input_in_the_log(
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
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("text", ["\x1b[31mSECRET", "SECRET\n{}", "SECRET\u2028", "SECRET " * 800])
def test_a_text_is_not_logged(client, caplog, text):
    caplog.set_level("DEBUG", "serve")
    for inputs in (text, f"{text} [MASK]"):
        client.post(FILL, json={"inputs": inputs})
    assert SECRET not in caplog.text
