import asyncio
import signal
import threading

import pytest
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from distilray.operations.submit import client
from distilray.operations.submit.client import ClusterClient
from distilray.operations.submit.job_records import (
    ClusterError,
    DriverResources,
    DuplicateJobError,
    Submission,
    UnreachableError,
)

SENT = Submission("python -m jobs.distill", "/checkout", ("/runs",), {"A": "1"}, {"run_dir": "/r"})


class Connection:
    """Scripted replacement of Ray's client."""

    def __init__(self, pieces=(), fault=None):
        self.pieces, self.fault, self.closed, self.sent = pieces, fault, False, {}

    async def tail_job_logs(self, job_id):
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, threading.Event):
                    while not piece.is_set():
                        await asyncio.sleep(0.001)
                elif callable(piece):
                    piece()
                else:
                    yield piece
        finally:
            self.closed = True

    def submit_job(self, **sent):
        self.sent = sent
        if self.fault:
            raise self.fault

    def get_job_info(self, job_id):
        raise self.fault


@pytest.fixture
def connected(monkeypatch):
    monkeypatch.setattr(client, "_SILENCE_S", 0.02)

    def connect(**script):
        cluster = ClusterClient.__new__(ClusterClient)
        cluster.address, cluster._client = "http://head:8265", Connection(**script)
        return cluster

    return connect


def test_a_silent_stream_yields_none_and_loses_nothing(connected):
    resumed = threading.Event()
    cluster = connected(pieces=["one\n", resumed, "two\n"])
    stream = cluster.tail("a-1")
    assert next(stream) == "one\n"
    assert next(stream) is None
    resumed.set()
    assert [piece for piece in stream if piece] == ["two\n"]
    assert cluster._client.closed


@pytest.mark.parametrize("fault", [RuntimeError("closed\nunexpectedly"), ConnectionResetError("reset")])
def test_a_stream_that_breaks_is_unreachable_in_one_line(connected, fault):
    stream = connected(pieces=["one\n", fault]).tail("a-1")
    assert next(stream) == "one\n"
    with pytest.raises(UnreachableError, match=r"closed \.\.\. unexpectedly|reset"):
        next(stream)


def test_leaving_a_stream_closes_it(connected):
    cluster = connected(pieces=["one\n", 60.0])
    stream = cluster.tail("a-1")
    next(stream)
    stream.close()
    assert cluster._client.closed


def test_ctrl_c_leaves_a_silent_stream_immediately_and_closes_it(connected, monkeypatch):
    monkeypatch.setattr(client, "_SILENCE_S", 60.0)

    def press():
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)

    cluster = connected(pieces=[press, 60.0])
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        with pytest.raises(KeyboardInterrupt):
            next(cluster.tail("a-1"))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert cluster._client.closed


TRACEBACK = RuntimeError("status code 500: Traceback\n  File x\nOSError: full\n.")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (AuthenticationError("Authentication required: x"), ClusterError, "401, .*RAY_AUTH_MODE=token"),
        (AuthenticationError("Authentication failed: x"), ClusterError, "403, the token belongs to another cluster"),
        (requests.ConnectionError("refused"), UnreachableError, "no answer; .*ray dashboard cluster.yaml"),
        (requests.Timeout("30"), UnreachableError, "no answer"),
        (requests.HTTPError("502 of a proxy"), UnreachableError, "no Ray dashboard at this address .502 of a proxy"),
        (TRACEBACK, UnreachableError, "500.* OSError: full"),
    ],
)
def test_every_error_is_one_line_with_the_address(connected, fault, kind, words):
    with pytest.raises(ClusterError, match=rf"^http://head:8265: .*{words}") as caught:
        connected(fault=fault).job("a-1")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_an_unknown_job_is_none(connected):
    fault = RuntimeError("Request failed with status code 404: Job a-1 does not exist.")
    assert connected(fault=fault).job("a-1") is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status code 500: Traceback\nValueError: submission_id a-1 already exists.", DuplicateJobError),
        ("no agent", UnreachableError),
    ],
)
def test_an_id_in_use_is_distinguished_from_other_errors(connected, fault, kind):
    with pytest.raises(kind):
        connected(fault=RuntimeError(fault)).submit(SENT, "a-1")


@pytest.mark.parametrize(
    ("driver", "resources"),
    [(DriverResources(), (None, None, None)), (DriverResources(2.0, 0.5, 10**9), (2.0, 0.5, 10**9))],
)
def test_files_variables_and_resources_are_sent(connected, driver, resources):
    cluster = connected()
    cluster.submit(Submission(SENT.entrypoint, "/checkout", ("/runs",), {"A": "1"}, {"run_dir": "/r"}, driver), "a-1")
    sent = cluster._client.sent
    assert (sent["submission_id"], sent["entrypoint"], sent["metadata"]) == ("a-1", SENT.entrypoint, {"run_dir": "/r"})
    assert sent["runtime_env"] == {"working_dir": "/checkout", "excludes": ["/runs"], "env_vars": {"A": "1"}}
    assert tuple(sent[f"entrypoint_{name}"] for name in ("num_cpus", "num_gpus", "memory")) == resources


def test_every_request_has_a_timeout(monkeypatch):
    sent = []
    monkeypatch.setattr(JobSubmissionClient, "_do_request", lambda *args, **options: sent.append(options))
    connection = client._ClientWithTimeout.__new__(client._ClientWithTimeout)
    connection._do_request("GET", "/api/jobs/")
    connection._do_request("PUT", "/api/packages", timeout=900)
    assert [options["timeout"] for options in sent] == [client._REQUEST_TIMEOUT_S, 900]
