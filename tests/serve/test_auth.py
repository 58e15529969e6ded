import asyncio
import hashlib

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.testclient import TestClient

from distilray.errors import InputError
from serve import auth
from serve.auth import ApiKeys, RequireKey, add_security_schemes, keys_from_environment
from serve.limits import RequestEnvelope
from tests.serve.contract.clients import assert_error
from tests.serve.contract.raw_asgi import scope_of

KEY, OTHER = "first-key-0123456789", "second-key-987654321"
PUBLIC = ["/", "/healthz", "/readyz", "/metrics", "/ui", "/ui/page.js", "/docs", "/docs/docs.js", "/openapi.json"]
PROTECTED = ["/info", "/info/", "/x//info", "/INFO", "/uix", "/nowhere", "/healthz/x", "/score", "/docsx"]


async def echo(scope, receive, send):
    await Response((await receive())["body"])(scope, receive, send)


@pytest.fixture(scope="module")
def client():
    return TestClient(RequestEnvelope(RequireKey(echo, keys=ApiKeys([KEY, OTHER]))))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {OTHER} "},
        {"X-API-Key": f" {OTHER} "},
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": KEY},
        [("x-api-key", "wrong"), ("x-api-key", KEY)],
        [("x-api-key", KEY), ("x-api-key", "wrong")],
    ],
)
def test_a_request_with_a_key_is_accepted(client, headers):
    assert client.post("/score", content=b"abc", headers=headers).content == b"abc"
    assert client.get("/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer{KEY}"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {KEY},{OTHER}"},
        {"x-api-key": f"Bearer {KEY}"},
        {"api-key": KEY},
        {"x-api-key": hashlib.sha256(KEY.encode()).hexdigest()},
        [("authorization", f"Bearer {number}") for number in range(50)],
        [("authorization", b"Bearer \xff\xfe\x00"), ("x-api-key", "schlüssel".encode())],
        {"x-api-key": "x" * 1_000_000},
    ],
    ids=lambda headers: str(headers)[:60],
)
def test_any_other_request_is_401_with_the_envelope(client, headers):
    for response in (client.post("/score", content=b"abc", headers=headers), client.get("/info", headers=headers)):
        assert_error(response, 401, message="authorization: Bearer KEY")
        assert response.headers["www-authenticate"] == "Bearer"
        assert KEY not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *((method, path, 200) for path in PUBLIC for method in ("GET", "HEAD")),
        *(("POST", path, 401) for path in PUBLIC),
        *(("GET", path, 401) for path in PROTECTED),
        *((method, "/healthz", 401) for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FETCH")),
    ],
)
def test_only_reads_of_public_paths_need_no_key(client, method, path, status):
    assert client.request(method, path).status_code == status


@pytest.mark.parametrize(("path", "status"), [("/mask/healthz", 200), ("/mask/info", 401), ("/maskhealthz", 401)])
def test_an_application_mounted_below_a_path_requires_keys_for_the_same_paths(path, status):
    app = RequireKey(echo, keys=ApiKeys([KEY]))
    assert TestClient(app, root_path="/mask").get(path).status_code == status


def test_a_request_without_a_key_is_neither_read_nor_passed_on():
    sent = []

    async def unreachable(*_):
        raise AssertionError

    async def send(message):
        sent.append(message)

    asyncio.run(RequireKey(unreachable, keys=ApiKeys([KEY]))(scope_of("/score"), unreachable, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("offered", [KEY, OTHER, "wrong"])
def test_every_key_is_compared_with_all_valid_ones_in_constant_time(monkeypatch, offered):
    compared = []
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda one, other: compared.append(one) or one == other)
    assert ApiKeys([KEY, OTHER]).contains(offered.encode()) == (offered != "wrong")
    assert [len(digest) for digest in compared] == [32, 32]


def test_the_document_has_the_security_schemes_of_protected_routes():
    api = FastAPI()
    for method, path in (("POST", "/score"), ("GET", "/info"), ("GET", "/healthz")):
        api.add_api_route(path, lambda: {}, methods=[method])
    document = api.openapi()
    add_security_schemes(document)
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["header"]["name"]) == ("bearer", "X-API-Key")
    assert "ErrorBody" in document["components"]["schemas"]
    for path, method, protected in [("/score", "post", True), ("/info", "get", True), ("/healthz", "get", False)]:
        operation = document["paths"][path][method]
        assert operation.get("security") == ([{"bearer": []}, {"header": []}] if protected else None)
        assert ("401" in operation["responses"]) == protected


def test_keys_come_from_the_variable_and_from_the_file(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(f"{OTHER}\r\n\n".encode())
    variable, files = {"DISTILRAY_API_KEYS": f" {KEY} ,"}, {"DISTILRAY_API_KEYS_FILE": str(file)}
    for environment, expected in ((variable, [True, False]), (files, [False, True]), (variable | files, [True, True])):
        keys = keys_from_environment(environment)
        assert [keys.contains(key.encode()) for key in (KEY, OTHER)] == expected
        assert not keys.contains(b"")
        assert KEY not in repr(keys) + repr(vars(keys))
    assert keys_from_environment({}) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "DISTILRAY_API_KEYS: no key"),
        (" , ", "DISTILRAY_API_KEYS: no key"),
        (f"{KEY},sesamesesameses", "entry 2: 15 characters; use at least 16"),
        (f"{KEY},sesame sesame sesame", "entry 2: .*ASCII"),
        (f"{KEY},sesame\x1bsesamesesame", "entry 2: .*ASCII"),
        ("sesamesesamesesameé", "entry 1: .*ASCII"),
        ("sesamesesamesesame\udcff", "entry 1: .*ASCII"),
    ],
)
def test_an_invalid_key_is_one_line_with_its_position_and_without_its_value(value, message):
    with pytest.raises(InputError, match=message) as caught:
        keys_from_environment({"DISTILRAY_API_KEYS": value})
    assert "sesame" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "DISTILRAY_API_KEYS_FILE: no key"),
        (b"\n\n", "DISTILRAY_API_KEYS_FILE: no key"),
        (b"\nshort\n", "keys: line 2: 5 characters"),
        (b"\xff\xfe" * 20, "keys: not UTF-8 text"),
        (None, "keys: No such file"),
    ],
    ids=str,
)
def test_an_invalid_file_is_one_line_that_names_it(tmp_path, content, message):
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(InputError, match="DISTILRAY_API_KEYS_FILE") as caught:
        keys_from_environment({"DISTILRAY_API_KEYS_FILE": str(tmp_path / "keys")})
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
