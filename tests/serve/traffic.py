"""Requests at a constant rate, independent of the responses."""

import contextlib
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

TEXT = "paris is [MASK] of france"


class Traffic(threading.local):
    """Results of requests over one keep-alive connection per thread.

    Attributes:
        answers: (status, revision) of each response, or (0, error) without a response.
    """

    def __init__(self, url: str, answers: list[tuple[int, str]]) -> None:
        address = urlsplit(url)
        self.answers = answers  # shared by all threads
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)

    @property
    def failed(self) -> list[tuple[int, str]]:
        return [each for each in self.answers if each[0] != 200]

    @property
    def revisions(self) -> list[str]:
        """Revisions in the order of their first response."""
        return list(dict.fromkeys(revision for status, revision in self.answers if status == 200))

    def send(self) -> None:
        body, headers = json.dumps({"input_data": [TEXT]}), {"content-type": "application/json"}
        try:
            self._connection.request("POST", "/score", body, headers)
            answer = self._connection.getresponse()
            answer.read()
            self.answers.append((answer.status, answer.headers.get("x-model-revision", "")))
        except (OSError, http.client.HTTPException) as error:
            self.answers.append((0, repr(error)))
            self._connection.close()


@contextlib.contextmanager
def steady_traffic(url: str, *, per_s: float = 40, senders: int = 12) -> Iterator[Traffic]:
    """Send requests until the block ends, then wait for the remaining responses."""
    traffic, stop = Traffic(url, []), threading.Event()

    def submit() -> None:
        while not stop.wait(1 / per_s):
            threads.submit(traffic.send)

    with ThreadPoolExecutor(senders + 1) as threads:
        threads.submit(submit)
        try:
            yield traffic
        finally:
            stop.set()


def wait_for_answers(traffic: Traffic, count: int, limit_s: float = 30) -> None:
    """Wait for a number of further responses."""
    wanted, end = len(traffic.answers) + count, time.monotonic() + limit_s
    while len(traffic.answers) < wanted:
        assert time.monotonic() < end, traffic.answers[-3:]
        time.sleep(0.02)


def post(url: str, body: object, **headers: str) -> tuple[int, http.client.HTTPMessage, Any]:
    """Send a POST request; return status, headers and decoded body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())
