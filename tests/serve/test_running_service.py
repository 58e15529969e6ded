"""A running service behind each proxy: requests over sockets that depend on the HTTP server."""

import contextlib
import itertools
import json
import socket
import struct
import threading
import time
import urllib.request

import pytest
import schemathesis

from distilray.config.serving import LimitsConfig
from tests.serve.contract.clients import FILL, JSON, TEXT, assert_error
from tests.serve.contract.generated_requests import config_of, send_generated
from tests.serve.contract.raw_http import CHUNK, chunked, connection, exchange, head, post
from tests.serve.server_process import running_server

pytestmark = pytest.mark.slow

OK = json.dumps({"inputs": TEXT}).encode()
LENGTH = {"content-length": str(len(OK))}
CHUNKED = {"transfer-encoding": "chunked"}
MIB = 1 << 20
# Bytes that sockets and proxies may buffer before the response. The Python proxy reads until the application has
# rejected the request, so that bodies are sent at the speed of a fast network.
IN_FLIGHT = 24 * MIB
PAUSE_S = 0.002
BODY_TIMEOUT_S = 3


@pytest.fixture(scope="module", params=[pytest.param("python", marks=pytest.mark.smoke), "haproxy"])
def url(request, model_dir, free_port):
    """URL of the service with the tiny model in fp32."""
    limit = f"app.limits.body_timeout_s={BODY_TIMEOUT_S}"
    settings = ("app.precision=fp32", limit, "ray.num_cpus=2", f"proxy={request.param}")
    with running_server(model_dir, *settings, port=free_port()) as url:
        yield url


def posted(headers, **options):
    return head(FILL, JSON | headers, **options)


@pytest.mark.parametrize(
    ("request_head", "body"),
    [
        (posted(LENGTH), [OK]),
        (posted(LENGTH, version="1.0"), [OK]),
        (posted({**LENGTH, "connection": "close"}), [OK]),
        (posted({**LENGTH, "expect": "100-continue"}), [OK]),
        (posted(CHUNKED), list(chunked(OK[at : at + 7] for at in range(0, len(OK), 7)))),
    ],
    ids=["usual", "HTTP/1.0", "closed after the answer", "asks before it sends", "chunked"],
)
def test_every_way_to_send_a_body_has_the_answer_of_the_model(url, model, request_head, body):
    reply = exchange(url, request_head, body)
    assert (reply.status_code, reply.headers["x-model-revision"]) == (200, model.revision)
    assert [one["token_str"] for one in reply.json()] == [one.token_str for one in model.fill([TEXT])[0][0]]


def test_the_best_token_is_answered_and_counted(url, model):
    series = ("fill_mask_requests_total", 'model="student"', 'route="/score"', 'status="200"')
    before = metric(url, *series)
    reply = post(url, "/score", json.dumps({"input_data": [TEXT]}).encode())
    assert reply.json() == [model.fill([TEXT])[0][0][0].token_str]
    assert metric(url, *series) == before + 1


@pytest.mark.parametrize("path", ["healthz", "readyz", "info", "ui", "docs", "openapi.json"])
def test_every_page_responds(url, path):
    with urllib.request.urlopen(f"{url}/{path}", timeout=30) as response:
        assert response.status == 200


@pytest.mark.parametrize("headers", [{"content-length": str(50 * MIB)}, CHUNKED], ids=["length", "chunked"])
def test_a_body_beyond_the_limit_is_413_and_most_of_it_is_never_read(url, headers):
    pieces = (b" " * CHUNK for _ in range(50 * MIB // CHUNK))
    reply = exchange(url, posted(headers), chunked(pieces) if headers is CHUNKED else pieces, pause_s=PAUSE_S)
    assert_error(reply, 413)
    assert reply.sent <= IN_FLIGHT


# Invalid HTTP does not reach the application: the HTTP server responds with its own 400 and closes the connection. One
# of the two servers accepts some of these requests, and responds correctly.
NO_HTTP = {
    "a negative length": posted({"content-length": "-1"}) + OK,
    "a length in words": posted({"content-length": "ten"}) + OK,
    "a length of thirty digits": posted({"content-length": "9" * 30}) + OK,
    "two lengths": posted({"content-length": "10", "Content-Length": "20"}) + OK,
    "a length and chunks": posted({"content-length": "5", **CHUNKED}) + b"0\r\n\r\n",
    "a chunk without a size": posted(CHUNKED) + b"zz\r\n",
    "a length that is too small": posted({"content-length": "10"}) + OK,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a path of 100 kB": head("/" + "a" * 100_000, {}, method="GET"),
    "a raw byte in the path": head("/\xe9", {}, method="GET"),
    "a method of its own": head(FILL, {}, method="FOO"),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_invalid_http_gets_a_status_below_500_and_does_not_affect_others(url, name):
    assert 400 <= exchange(url, NO_HTTP[name]).status_code < 500
    assert post(url, FILL, OK).status_code == 200


def test_headers_of_200_kilobytes_are_not_an_internal_error(url):
    reply = exchange(url, head("/healthz", {"x-long": "b" * 200_000}, method="GET"))
    assert reply.status_code in {200, 400, 431}


@pytest.mark.parametrize("sent", ["mine-1", "an id <b>", "x" * 129, "a\tb"])
def test_only_a_valid_request_id_is_returned(url, sent):
    reply = post(url, FILL, b"{}", x_request_id=sent)
    assert_error(reply, 422)
    assert (reply.headers["x-request-id"] == sent) == (sent == "mine-1")
    assert (sent in reply.text + str(reply.headers)) == (sent == "mine-1")


def test_incomplete_bodies_get_408_and_do_not_delay_others(url):
    replies = []

    def send_half(request_head, part):
        replies.append(exchange(url, request_head, [part]))

    halves = [(posted({"content-length": "100"}), OK[:20]), (posted(CHUNKED), b"20\r\nabc")]
    threads = [threading.Thread(target=send_half, args=half) for half in halves]
    with contextlib.ExitStack() as stack:
        stack.enter_context(connection(url)).sendall(posted({})[:-4])  # a client that stops within the head
        for _ in range(LimitsConfig().max_concurrent_requests + 8):
            stack.enter_context(connection(url)).sendall(posted({"content-length": "100"}) + OK[:1])
        for thread in threads:
            thread.start()
        assert post(url, FILL, OK).status_code == 200
        assert not replies
        for thread in threads:
            thread.join()
    for reply in replies:
        assert_error(reply, 408)
        assert reply.seconds > BODY_TIMEOUT_S - 1
    assert len(replies) == len(halves)


def test_disconnected_clients_count_as_499_and_free_their_capacity(url):
    body = json.dumps({"inputs": ["paris is [MASK] of france " * 8] * 32, "parameters": {"top_k": 100}}).encode()
    before = metric(url, "fill_mask_failures_total", "ClientDisconnect")
    # A proxy drops requests whose client disconnects too early, and a late one has its response: try several delays.
    delays = itertools.cycle((0.002, 0.005, 0.01, 0.02, 0.04))
    end = time.monotonic() + 60
    while metric(url, "fill_mask_failures_total", "ClientDisconnect") <= before:
        assert time.monotonic() < end
        with connection(url) as client:
            client.sendall(posted({"content-length": str(len(body))}) + body)
            time.sleep(next(delays))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # disconnect with a reset
    while metric(url, "fill_mask_requests_in_progress") > 1:  # one is the request for the metrics
        assert time.monotonic() < end
    assert post(url, FILL, OK).status_code == 200


def metric(url, name, *labels):
    """Return the sum of the series of a metric with these labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(name) and all(label in line for label in labels)
    )


def test_responses_to_generated_requests_match_the_document(url):
    config = config_of(max_examples=30, boundaries=False)
    counts = send_generated(schemathesis.openapi.from_url(f"{url}/openapi.json", config=config, timeout=30))
    assert counts.total() >= 90
    assert {200, 400, 422} <= set(counts)
