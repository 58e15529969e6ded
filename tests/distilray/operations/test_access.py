import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distilray.errors import InputError
from distilray.operations.access import (
    Token,
    dashboard_url,
    enable_token_auth,
    find_token,
    get_json,
    http_get,
    is_loopback,
)

OURS = Token("0c" * 32, "RAY_AUTH_TOKEN")


def test_the_token_is_read_from_the_same_sources_as_in_ray(tmp_path):
    file, other = tmp_path / ".ray/auth_token", tmp_path / "other"
    file.parent.mkdir()
    file.write_text("f11e" * 16 + "\n")
    other.write_text("07e4\n")
    assert find_token({"RAY_AUTH_TOKEN": "a"}, tmp_path) == Token("a", "RAY_AUTH_TOKEN")
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(other)}, tmp_path) == Token("07e4", str(other))
    assert find_token({}, tmp_path) == Token("f11e" * 16, str(file))
    assert find_token({}, tmp_path / "nobody") is None
    file.write_text("\n")
    assert find_token({}, tmp_path) is None
    assert OURS.value not in repr(OURS)


@pytest.mark.parametrize(
    ("option", "environment", "address"),
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
def test_the_address_has_the_documented_precedence(option, environment, address):
    assert dashboard_url(option, environment) == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        *[(url, "http://HOST:PORT") for url in ("ray://head:1", "ftp://head", "http://", "http://head:8265?x=1")],
        ("http://me:pa55w0rd@head:8265", "contains a user name or password"),
    ],
)
def test_another_address_is_refused_with_the_expected_form_and_without_its_password(address, message):
    with pytest.raises(InputError, match=message) as refused:
        dashboard_url(address, {})
    assert "pa55w0rd" not in str(refused.value)


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
    ids=["no token", "empty file", "file", "variable", "path", "disabled by the user"],
)
def test_token_authentication_is_enabled_if_there_is_a_token(environment, file, mode, tmp_path):
    if file is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(file)
    enable_token_auth(environment, tmp_path)
    assert environment.get("RAY_AUTH_MODE") == mode


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_addresses_of_this_machine_are_recognized(host):
    assert is_loopback(host)
    assert not is_loopback(host.replace("127.", "192.").replace("::1", "::2").replace("localhost", "host"))


class Server(BaseHTTPRequestHandler):
    """Answers like Ray with 401, 403 or 200; `/moved` redirects, `/torn` sends no HTTP."""

    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        if self.path == "/torn":
            self.wfile.write(b"no http\r\n")
            return
        authorization = self.headers.get("Authorization")
        status = 401 if authorization is None else 200 if authorization == f"Bearer {OURS.value}" else 403
        self.send_response(302 if self.path == "/moved" else status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b'{"a": 1}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there: the proxy must be bypassed
    Server.paths = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_three_responses_of_a_server_are_distinguished(address):
    assert [http_get(f"{address}/x", token)[0] for token in (None, "wrong", OURS.value)] == [401, 403, 200]
    assert get_json(address, "/x", OURS) == {"a": 1}
    with pytest.raises(OSError, match="returned 401"):
        get_json(address, "/x", None)


def test_a_token_does_not_follow_a_redirect(address):
    assert http_get(f"{address}/moved", OURS.value)[0] == 302
    assert Server.paths == ["/moved"]


def test_a_response_that_is_not_http_is_an_error(address):
    with pytest.raises(OSError, match="no HTTP"):
        http_get(f"{address}/torn", None)


@pytest.mark.parametrize("value", ["two\nlines", "t\u00f6ken", "a b"])
def test_a_token_that_is_no_valid_header_is_reported_but_not_shown(value):
    with pytest.raises(OSError, match="the token contains") as raised:
        http_get("http://127.0.0.1:8265", value)
    assert value not in str(raised.value)
