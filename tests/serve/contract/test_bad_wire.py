"""Invalid requests that depend on the HTTP server, over sockets, behind each proxy."""

import contextlib
import gzip
import itertools
import json
import socket
import struct
import threading
import time
import urllib.request

import pytest

from distilray.config.serving import LimitsConfig
from tests.serve.contract.clients import FILL, TEXT, assert_error
from tests.serve.contract.raw_http import CHUNK, chunked, connection, exchange, head, post

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
OK = json.dumps({"inputs": TEXT}).encode()
MIB = 1 << 20
# Bytes that sockets and proxies may buffer before the response. The Python proxy reads until the application has
# rejected the request, so that bodies are sent at the speed of a fast network.
IN_FLIGHT = 24 * MIB
PAUSE_S = 0.002
BODY_TIMEOUT_S = LimitsConfig().body_timeout_s


def test_an_answer_over_a_socket_is_that_of_the_model(service_url, model):
    reply = post(service_url, FILL, OK)
    assert reply.status_code == 200
    assert [one["token_str"] for one in reply.json()] == [one.token_str for one in model.fill([TEXT])[0][0]]


@pytest.mark.parametrize(
    "request_head",
    [
        head(FILL, {**JSON, "content-length": str(len(OK))}, version="1.0"),
        head(FILL, {**JSON, "content-length": str(len(OK)), "connection": "close"}),
        head(FILL, {**JSON, "content-length": str(len(OK)), "expect": "100-continue"}),
    ],
    ids=["HTTP/1.0", "closed after the answer", "asks before it sends"],
)
def test_other_ways_to_send_a_body_are_accepted(service_url, request_head):
    assert exchange(service_url, request_head, [OK]).json() == post(service_url, FILL, OK).json()


def test_a_chunked_body_without_length_is_accepted(service_url):
    pieces = chunked(OK[at : at + 7] for at in range(0, len(OK), 7))
    reply = exchange(service_url, head(FILL, {**JSON, "transfer-encoding": "chunked"}), pieces)
    assert reply.json() == post(service_url, FILL, OK).json()


@pytest.mark.parametrize("length", [{"content-length": str(10 * MIB)}, {"content-length": str(50 * MIB)}, {}])
def test_a_body_beyond_the_limit_is_413_and_most_of_it_is_never_read(service_url, length):
    pieces = (b" " * CHUNK for _ in range(50 * MIB // CHUNK))
    headers = {**JSON, **(length or {"transfer-encoding": "chunked"})}
    reply = exchange(service_url, head(FILL, headers), pieces if length else chunked(pieces), pause_s=PAUSE_S)
    assert_error(reply, 413)
    assert reply.sent <= IN_FLIGHT


@pytest.mark.parametrize(
    ("body", "headers", "status", "error_type"),
    [
        (b"", {}, 422, "Validation"),
        (OK[:-1], {}, 400, "InvalidJson"),
        (b" " * 1_900_000, {}, 400, "InvalidJson"),
        (b"[" * 100_000, {}, 400, "InvalidJson"),
        (b'{"a":' * 100_000, {}, 400, "InvalidJson"),
        (gzip.compress(OK, mtime=0), {}, 400, "InvalidJson"),
        (gzip.compress(OK, mtime=0), {"content_encoding": "gzip"}, 415, "UnsupportedMediaType"),
        (OK, {"content_type": "application/json; charset=latin-1"}, 415, "UnsupportedMediaType"),
        (OK, {"content_type": "text/plain"}, 415, "UnsupportedMediaType"),
        (b'{"inputs": "[MASK] \\ud800"}', {}, 422, "Tokenizer"),
        (json.dumps({"inputs": "x" * MIB + " [MASK]"}).encode(), {}, 422, "TextTooLong"),
        (b'{"inputs": "none"}', {}, 422, "NoMask"),
    ],
    ids=[
        "empty",
        "truncated",
        "spaces",
        "brackets",
        "objects",
        "gzip that is not declared",
        "gzip",
        "another charset",
        "no JSON by its type",
        "half of a surrogate pair",
        "a word of a million letters",
        "no mask",
    ],
)
def test_a_bad_body_over_a_socket_has_its_status_type_and_envelope(service_url, body, headers, status, error_type):
    reply = post(service_url, FILL, body, **headers)
    assert_error(reply, status, error_type)
    assert reply.seconds < 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", FILL, 405), ("GET", "/nowhere", 404), ("TRACE", FILL, 405), ("GET", "//", 404)],
)
def test_a_request_without_a_route_has_the_envelope(service_url, method, path, status):
    assert_error(exchange(service_url, head(path, {}, method=method)), status)


# Invalid HTTP does not reach the application: the HTTP server responds with its own 400 and closes the connection. One
# of the two servers accepts some of these requests, and responds correctly.
NO_HTTP = {
    "a negative length": head(FILL, {**JSON, "content-length": "-1"}) + OK,
    "a length in words": head(FILL, {**JSON, "content-length": "ten"}) + OK,
    "a length of thirty digits": head(FILL, {**JSON, "content-length": "9" * 30}) + OK,
    "two lengths": head(FILL, {**JSON, "content-length": "10", "Content-Length": "20"}) + OK,
    "a length and chunks": head(FILL, {**JSON, "content-length": "5", "transfer-encoding": "chunked"}) + b"0\r\n\r\n",
    "a chunk without a size": head(FILL, {**JSON, "transfer-encoding": "chunked"}) + b"zz\r\n",
    "a length that is too small": head(FILL, {**JSON, "content-length": "10"}) + OK,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a path of 100 kB": head("/" + "a" * 100_000, {}, method="GET"),
    "a raw byte in the path": head("/\xe9", {}, method="GET"),
    "a method of its own": head(FILL, {}, method="FOO"),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_invalid_http_gets_a_status_below_500_and_does_not_affect_others(service_url, name):
    reply = exchange(service_url, NO_HTTP[name])
    assert 400 <= reply.status_code < 500
    assert post(service_url, FILL, OK).status_code == 200


def test_headers_of_200_kilobytes_are_not_an_internal_error(service_url):
    reply = exchange(service_url, head("/healthz", {"x-long": "b" * 200_000}, method="GET"))
    assert reply.status_code in {200, 400, 431}


@pytest.mark.parametrize("sent", ["an id <b>", "x" * 129, "a\tb"])
def test_an_invalid_request_id_is_replaced_consistently(service_url, sent):
    reply = post(service_url, FILL, b"{}", x_request_id=sent)
    assert_error(reply, 422)
    assert sent not in reply.text + str(reply.headers)


def test_a_valid_request_id_is_kept(service_url):
    reply = post(service_url, FILL, b"{}", x_request_id="mine-1")
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "mine-1"


def test_many_incomplete_bodies_do_not_delay_others(service_url):
    half = head(FILL, {**JSON, "content-length": "100"}) + OK[:1]
    with contextlib.ExitStack() as stack:
        for _ in range(LimitsConfig().max_concurrent_requests + 8):
            stack.enter_context(connection(service_url)).sendall(half)
        assert post(service_url, FILL, OK).status_code == 200


def test_bodies_that_never_end_get_408_and_do_not_delay_others(service_url):
    halves = [
        (head(FILL, {**JSON, "content-length": "100"}), [OK[:20]]),
        (head(FILL, {**JSON, "transfer-encoding": "chunked"}), [b"20\r\nabc"]),
    ]
    replies = []
    threads = [
        threading.Thread(target=lambda each=each: replies.append(exchange(service_url, *each))) for each in halves
    ]
    with connection(service_url) as silent:
        silent.sendall(head(FILL, JSON)[:-4])
        for thread in threads:
            thread.start()
        start = time.monotonic()
        while time.monotonic() - start < 3:
            assert post(service_url, FILL, OK).seconds < 1
        for thread in threads:
            thread.join()
    for reply in replies:
        assert_error(reply, 408)
        assert BODY_TIMEOUT_S - 1 <= reply.seconds <= BODY_TIMEOUT_S + 5


def test_disconnected_clients_count_as_499_and_free_their_capacity(service_url):
    body = json.dumps({"inputs": ["paris is [MASK] of france " * 8] * 32, "parameters": {"top_k": 100}}).encode()
    before = metric(service_url, "fill_mask_failures_total", "ClientDisconnect")
    # A proxy drops requests whose client disconnects too early, and a late one has its response: try several delays.
    delays = itertools.cycle((0.002, 0.005, 0.01, 0.02, 0.04))
    end = time.monotonic() + 60
    while metric(service_url, "fill_mask_failures_total", "ClientDisconnect") <= before:
        assert time.monotonic() < end
        with connection(service_url) as client:
            client.sendall(head(FILL, {**JSON, "content-length": str(len(body))}) + body)
            time.sleep(next(delays))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # disconnect with a reset
    while metric(service_url, "fill_mask_requests_in_progress", "") > 1:  # one is the request for the metrics
        assert time.monotonic() < end
    assert post(service_url, FILL, OK).status_code == 200


def metric(url, name, label):
    """Return the sum of the series of a metric with a label."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and label in line)
