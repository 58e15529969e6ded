"""Requests at a constant rate, independent of the responses."""

import contextlib
import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TEXT = "paris is [MASK] of france"


@dataclass
class Traffic:
    """Results: (status, revision) of each response, or (0, error) without a response."""

    answers: list[tuple[int, str]] = field(default_factory=list)

    @property
    def failed(self) -> list[tuple[int, str]]:
        return [each for each in self.answers if each[0] != 200]

    @property
    def revisions(self) -> list[str]:
        """Revisions in the order of their first response."""
        return list(dict.fromkeys(revision for status, revision in self.answers if status == 200))


@contextlib.contextmanager
def steady_traffic(url: str, *, per_s: float = 40, senders: int = 12) -> Iterator[Traffic]:
    """Send requests over keep-alive connections until the block ends, then wait for the remaining responses."""
    traffic, due, stop = Traffic(), queue.SimpleQueue[bool](), threading.Event()
    threads = [threading.Thread(target=_send, args=(url, due, traffic)) for _ in range(senders)]

    def tick() -> None:
        while not stop.wait(1 / per_s):
            due.put(True)
        for _ in threads:
            due.put(False)

    threads.append(threading.Thread(target=tick))
    for each in threads:
        each.start()
    try:
        yield traffic
    finally:
        stop.set()
        for each in threads:
            each.join()


def wait_for_answers(traffic: Traffic, count: int, limit_s: float = 30) -> None:
    """Wait for a number of further responses."""
    wanted, end = len(traffic.answers) + count, time.monotonic() + limit_s
    while len(traffic.answers) < wanted:
        assert time.monotonic() < end, traffic.answers[-3:]
        time.sleep(0.02)


def _send(url: str, due: "queue.SimpleQueue[bool]", traffic: Traffic) -> None:
    address = urlsplit(url)
    body, headers = json.dumps({"input_data": [TEXT]}), {"content-type": "application/json"}
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    while due.get():
        try:
            connection.request("POST", "/score", body, headers)
            answer = connection.getresponse()
            answer.read()
            traffic.answers.append((answer.status, answer.headers.get("x-model-revision", "")))
        except (OSError, http.client.HTTPException) as error:
            traffic.answers.append((0, repr(error)))
            connection.close()
    connection.close()


def post(url: str, body: object, **headers: str) -> tuple[int, http.client.HTTPMessage, Any]:
    """Send a POST request; return status, headers and decoded body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())
