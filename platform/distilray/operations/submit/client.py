"""Jobs of a real cluster, through Ray's client: every error is one line with its fix."""

import asyncio
import logging
import os
import secrets
import shlex
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import requests
from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from distilray.operations.submit.records import (
    ClusterError,
    DuplicateJobError,
    JobRecord,
    Submission,
    UnreachableError,
    one_line,
)

_KILL = "import sys, ray; ray.init(log_to_driver=False); ray.kill(ray.get_actor(*sys.argv[1:]))"
_ANSWER_S = 30  # of a request; Ray's client itself would wait without end for a tunnel whose far end is gone
_TICK_S = 5.0  # of a silent stream
_NO_ANSWER = "is the cluster up, and its port tunnelled (`ray dashboard cluster.yaml`, or --address)?"
_UNKNOWN = "401, it wants a token: `export RAY_AUTH_MODE=token`, and put that of the cluster into ~/.ray/auth_token"
_FOREIGN = "403, the token is that of another cluster: take it from the head, `~/.ray/auth_token` there"
# We report what Ray's client logs besides errors, or no user needs it.
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk",
              "ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir")  # fmt: skip


class _PatientClient(JobSubmissionClient):
    """Ray's client with a timeout for each request."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_S, **options})


class Cluster:
    """The jobs API of a Ray dashboard. Every method may raise `ClusterError`.

    Raises:
        ClusterError: there is none at the address, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to its argument
        with self._errors():
            self._client = _PatientClient(address)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs that were ever submitted."""
        with self._errors():
            return [_record(job) for job in self._client.list_jobs() if job.submission_id]

    def job(self, job_id: str) -> JobRecord | None:
        """Return one job, None if the cluster has none of that id."""
        try:
            with self._errors():
                return _record(self._client.get_job_info(job_id))
        except UnreachableError as error:
            if "status code 404" in str(error):
                return None
            raise

    def submit(self, submission: Submission, job_id: str) -> None:
        """Upload the files and start the job.

        Raises:
            DuplicateJobError: the id is in use.
        """
        driver = submission.driver
        with self._errors():
            try:
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": submission.working_dir,
                        "excludes": list(submission.excludes),
                        "env_vars": dict(submission.env_vars),
                    },
                    metadata=dict(submission.metadata),
                    entrypoint_num_cpus=driver.num_cpus or None,
                    entrypoint_num_gpus=driver.num_gpus or None,
                    entrypoint_memory=driver.memory_bytes or None,
                )
            except RuntimeError as error:
                if f"{job_id} already exists" not in str(error):
                    raise
                raise DuplicateJobError(job_id) from None

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; a pending one does so when it starts."""
        with self._errors():
            self._client.stop_job(job_id)

    def kill_pending(self, job_id: str) -> None:
        """End a job whose driver has not started.

        The jobs API cannot do it, but a second job can: one without resources, which starts on the head at once.
        """
        driver = [JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id), SUPERVISOR_ACTOR_RAY_NAMESPACE]
        with self._errors():
            self._client.submit_job(
                entrypoint=shlex.join(["python", "-c", _KILL, *driver]),
                submission_id=f"stop-{job_id}-{secrets.token_hex(3)}",
            )

    def tail(self, job_id: str) -> Generator[str | None, None, None]:
        """Yield the log from its beginning in pieces of any length, as it grows; None every few seconds without any.

        Ends when the server ends it, which does not mean that the job has ended.

        Raises:
            UnreachableError: the stream broke.
        """
        loop = asyncio.new_event_loop()
        pieces = self._client.tail_job_logs(job_id)
        task = loop.create_task(_next(pieces))
        try:
            while True:
                loop.run_until_complete(asyncio.wait({task}, timeout=_TICK_S))
                if not task.done():
                    yield None
                    continue
                piece = task.result()
                if piece is None:
                    return
                task = loop.create_task(_next(pieces))
                yield piece
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise UnreachableError(one_line(error)) from None
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError, RuntimeError):
                loop.run_until_complete(task)
            loop.run_until_complete(pieces.aclose())
            loop.close()

    def log(self, job_id: str) -> str:
        """Return the log up to now."""
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def machines(self) -> list[dict[str, float]]:
        """Return the resources of every machine, by Ray's names."""
        with self._errors():
            nodes = list_nodes(self.address, timeout=_ANSWER_S, raise_on_missing_output=False)
        return [dict(node.resources_total) for node in nodes if node.state == "ALIVE"]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of Ray's client into one line."""
        try:
            yield
        except AuthenticationError as error:
            refused = "Authentication failed" in str(error)
            raise ClusterError(f"{self.address}: {_FOREIGN if refused else _UNKNOWN}") from None
        except (requests.ConnectionError, requests.Timeout, ConnectionError):
            raise UnreachableError(f"{self.address}: no answer; {_NO_ANSWER}") from None
        except requests.RequestException as error:
            raise UnreachableError(f"{self.address}: no Ray dashboard answers there ({one_line(error)})") from None
        except (RuntimeError, RayError, RayStateApiException) as error:
            raise UnreachableError(f"{self.address}: {one_line(error)}") from None


def _record(job: Any) -> JobRecord:
    return JobRecord(job.submission_id, job.status.value, job.message or "", job.driver_exit_code, job.metadata or {})


async def _next(pieces: Any) -> str | None:
    return await anext(pieces, None)
