import asyncio
import hashlib

import pytest
from fastapi import FastAPI, Request, Response
from starlette.testclient import TestClient

from distilray.errors import InputError
from serve import auth as module
from serve.auth import ApiKeys, RequireKey, add_security_schemes, keys_from_environment
from serve.limits import Admission, Capacity, RequestEnvelope

KEY, OTHER = "first-key-0123456789", "second-key-987654321"
OPEN = ["/", "/healthz", "/readyz", "/metrics", "/ui", "/ui/page.js", "/docs", "/docs/docs.js", "/openapi.json"]


@pytest.fixture(scope="module")
def client():
    api = FastAPI(docs_url=None)

    @api.post("/score")
    async def score(request: Request):
        return {"bytes": len(await request.body())}

    @api.get("/info")
    async def info():
        return {}

    @api.get("/healthz")
    async def healthz():
        return {}

    api.add_middleware(Admission, capacity=Capacity(max_requests=1, max_body_bytes=100), body_timeout_s=10)
    api.add_middleware(RequireKey, keys=ApiKeys([KEY, OTHER]))
    api.add_middleware(RequestEnvelope)
    add_security_schemes(api)
    return TestClient(api, raise_server_exceptions=False)


def assert_unauthorized(response):
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    body = response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert body["error_type"] == "Unauthorized"
    assert body["request_id"] == response.headers["x-request-id"]
    assert KEY not in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {OTHER} "},
        {"x-api-key": KEY},
        {"X-API-Key": f" {OTHER} "},
        {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": KEY},
        [("x-api-key", "wrong"), ("x-api-key", KEY)],
        [("x-api-key", KEY), ("x-api-key", "wrong")],
    ],
)
def test_a_request_with_a_key_is_let_in(client, headers):
    assert client.post("/score", content=b"abc", headers=headers).json() == {"bytes": 3}
    assert client.get("/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer{KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {KEY} {KEY}"},
        {"authorization": f"Bearer {KEY},{OTHER}"},
        {"x-api-key": ""},
        {"x-api-key": f"Bearer {KEY}"},
        {"api-key": KEY},
        {"cookie": f"x-api-key={KEY}"},
        {"x-api-key": hashlib.sha256(KEY.encode()).hexdigest()},
        [("authorization", f"Bearer {number}") for number in range(50)],
        [("authorization", b"Bearer \xff\xfe\x00"), ("x-api-key", "schlüssel".encode())],
        {"x-api-key": "x" * 1_000_000},
    ],
)
def test_any_other_request_is_401_with_the_envelope(client, headers):
    assert_unauthorized(client.post("/score", content=b"abc", headers=headers))
    assert_unauthorized(client.get("/info", headers=headers))


@pytest.mark.parametrize("path", OPEN)
def test_probes_metrics_page_and_documentation_need_no_key(client, path):
    assert client.get(path).status_code != 401
    assert client.head(path).status_code != 401
    assert_unauthorized(client.post(path))


@pytest.mark.parametrize(
    "path", ["/info", "/info/", "/x//info", "/INFO", "/uix", "/nowhere", "/healthz/x", "/score", "/docsx"]
)
def test_all_paths_except_public_ones_require_a_key(client, path):
    assert_unauthorized(client.get(path))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FETCH"])
def test_all_methods_except_reads_require_a_key(client, method):
    assert client.request(method, "/healthz").status_code == 401


def test_a_request_without_a_key_is_rejected_before_its_body_is_measured(client):
    assert_unauthorized(client.post("/score", content=b"x" * 10_000))


def test_a_request_without_a_key_is_neither_read_nor_admitted():
    sent = []

    async def unreachable(*_):
        raise AssertionError

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [], "root_path": ""}
    asyncio.run(RequireKey(unreachable, keys=ApiKeys([KEY]))(scope, unreachable, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("offered", [KEY, "wrong"])
def test_a_right_key_is_compared_with_as_many_as_a_wrong_one(monkeypatch, offered):
    compared = []
    monkeypatch.setattr(module.hmac, "compare_digest", lambda one, other: compared.append(one) or one == other)
    assert ApiKeys([KEY, OTHER]).contains(offered.encode()) == (offered == KEY)
    assert [len(digest) for digest in compared] == [32, 32]


@pytest.mark.parametrize(("path", "status"), [("/mask/healthz", 404), ("/mask/info", 401), ("/maskhealthz", 401)])
def test_an_application_mounted_below_a_path_requires_keys_for_the_same_paths(path, status):
    app = RequireKey(Response("", 404), keys=ApiKeys([KEY]))
    assert TestClient(app, root_path="/mask").get(path).status_code == status


def test_the_document_has_the_security_schemes_of_protected_routes(client):
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["header"]["name"] == "X-API-Key"
    for path, method, guarded in [("/score", "post", True), ("/info", "get", True), ("/healthz", "get", False)]:
        operation = document["paths"][path][method]
        assert operation.get("security") == ([{"bearer": []}, {"header": []}] if guarded else None)
        assert ("401" in operation["responses"]) == guarded
    assert "ErrorBody" in document["components"]["schemas"]


# Sources of keys


def accepted(environ, *keys):
    accepted_keys = keys_from_environment(environ)
    return [accepted_keys.contains(key.encode()) for key in keys]


def test_without_a_variable_there_are_no_keys():
    assert keys_from_environment({}) is None


def test_keys_come_from_the_variable_and_from_the_file(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(f"{OTHER}\r\n\n".encode())
    assert accepted({"DISTILRAY_API_KEYS": f" {KEY} ,"}, KEY, OTHER) == [True, False]
    assert accepted({"DISTILRAY_API_KEYS_FILE": str(file)}, KEY, OTHER) == [False, True]
    both = {"DISTILRAY_API_KEYS": KEY, "DISTILRAY_API_KEYS_FILE": str(file)}
    assert accepted(both, KEY, OTHER, "") == [True, True, False]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "DISTILRAY_API_KEYS: no key"),
        (" , ", "DISTILRAY_API_KEYS: no key"),
        ("sesame", "entry 1: 6 characters"),
        (f"{KEY},sesame", "entry 2: 6 characters"),
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


@pytest.mark.parametrize("content", [b"", b"\n\n", b"short\n", b"\xff\xfe" * 20, None])
def test_an_invalid_file_is_one_line_that_names_it(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="DISTILRAY_API_KEYS_FILE") as caught:
        keys_from_environment({"DISTILRAY_API_KEYS_FILE": str(file)})
    assert len(str(caught.value).splitlines()) == 1


def test_the_representation_of_the_keys_contains_none():
    keys = ApiKeys([KEY])
    assert KEY not in repr(keys) + repr(vars(keys))
