import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distilray.operations.doctor.access.dashboard import check_access, get_json, http_get, is_loopback
from distilray.operations.ray_token import Token

OURS = Token("0c" * 32, "RAY_AUTH_TOKEN")
ADDRESS = "http://127.0.0.1:8265"


def answers(bare: int, wrong: int, right: int, seen: list[str | None] | None = None) -> Callable:
    def get(url: str, token: str | None) -> tuple[int, bytes]:
        if seen is not None:
            seen.append(token)
        return {None: bare, OURS.value: right}.get(token, wrong), b""

    return get


def test_a_closed_api_that_takes_our_token_is_fine():
    found = check_access(ADDRESS, OURS, answers(401, 403, 200))
    assert found.status == "ok"
    assert OURS.value not in found.found


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((200, 200, 200), "is open"),
        ((404, 403, 200), "404 without a token"),
        ((401, 200, 200), "200 with a wrong token"),
        ((401, 403, 403), "403 with the token of RAY_AUTH_TOKEN"),
    ],
)
def test_every_other_answer_fails(statuses, told):
    found = check_access(ADDRESS, OURS, answers(*statuses))
    assert (found.status, told in found.found) == ("fail", True)
    assert found.fix
    assert OURS.value not in found.found + found.fix


@pytest.mark.parametrize("statuses", [(200, 200, 200), (302, 403, 200), (401, 401, 200)])
def test_our_token_is_not_sent_to_what_does_not_answer_like_a_closed_ray(statuses):
    seen: list[str | None] = []
    check_access(ADDRESS, OURS, answers(*statuses, seen))
    assert seen
    assert OURS.value not in seen


def test_without_a_token_here_nobody_can_submit():
    assert check_access(ADDRESS, None, answers(401, 403, 200)).status == "fail"


def test_a_token_in_plain_text_over_a_network_is_a_warning():
    assert check_access("http://192.0.2.7:8265", OURS, answers(401, 403, 200)).status == "warn"
    assert check_access("https://192.0.2.7:8265", OURS, answers(401, 403, 200)).status == "ok"


def test_no_answer_fails_and_names_the_tunnel(free_port):
    found = check_access(f"http://127.0.0.1:{free_port()}", OURS)
    assert (found.status, "ray dashboard" in found.fix) == ("fail", True)


@pytest.mark.parametrize(("url", "loopback"), [(ADDRESS, True), ("http://[::1]:1", True), ("http://localhost", True)])
def test_addresses_of_this_machine_are_known(url, loopback):
    assert is_loopback(url) is loopback
    assert not is_loopback(url.replace("127.0.0.1", "192.0.2.1").replace("::1", "::2").replace("localhost", "host"))


class Answers(BaseHTTPRequestHandler):
    """As Ray: 401, 403, 200; `/moved` leads elsewhere, `/torn` breaks off."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.server.seen.append((self.path, given))  # type: ignore[attr-defined]
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            return
        if self.path == "/torn":
            self.wfile.write(b"no http\r\n")
            return
        self.send_response(401 if given is None else 200 if given == f"Bearer {OURS.value}" else 403)
        self.end_headers()
        self.wfile.write(b'{"a": 1}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_over_http_the_three_answers_are_told_apart(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that is not there: this machine asks itself
    address = f"http://127.0.0.1:{server.server_port}"
    assert check_access(address + "/", OURS).status == "ok"
    assert get_json(address, "/x", OURS) == {"a": 1}
    with pytest.raises(OSError, match="answers 401"):
        get_json(address, "/x", None)


def test_a_token_does_not_follow_a_redirect(server):
    assert http_get(f"http://127.0.0.1:{server.server_port}/moved", OURS.value)[0] == 302
    assert [path for path, _ in server.seen] == ["/moved"]


def test_what_speaks_no_http_is_no_answer(server):
    with pytest.raises(OSError, match="no HTTP"):
        http_get(f"http://127.0.0.1:{server.server_port}/torn", None)


@pytest.mark.parametrize("value", ["two\nlines", "t\u00f6ken", "a b"])
def test_a_token_that_no_header_takes_is_told_and_not_shown(value):
    with pytest.raises(OSError, match="the token holds") as raised:
        http_get(ADDRESS, value)
    assert value not in str(raised.value)
