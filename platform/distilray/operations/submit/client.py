"""Client for Ray's jobs API that reports each error in one line with a fix."""

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

from distilray.operations.submit.job_records import (
    ClusterError,
    DuplicateJobError,
    JobRecord,
    Submission,
    UnreachableError,
    one_line,
)

_KILL_SCRIPT = "import sys, ray; ray.init(log_to_driver=False); ray.kill(ray.get_actor(*sys.argv[1:]))"
_REQUEST_TIMEOUT_S = 30  # Ray's client has none and would wait forever for a tunnel whose remote end is gone
_SILENCE_S = 5.0  # a log stream yields None when it has been silent for this long
_NO_ANSWER = "check that the cluster is running and its port is forwarded (`ray dashboard cluster.yaml`, or --address)"
_UNAUTHENTICATED = "401, no token: copy the cluster's to ~/.ray/auth_token and `export RAY_AUTH_MODE=token`"
_FORBIDDEN = "403, the token belongs to another cluster: copy `~/.ray/auth_token` from the head of this cluster"
# Their warnings are either reported by this module in its own words or of no use to users.
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir",
)  # fmt: skip


class _ClientWithTimeout(JobSubmissionClient):
    """Ray's client with a timeout for every request."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _REQUEST_TIMEOUT_S, **options})


class ClusterClient:
    """Jobs API of a Ray dashboard. Every method may raise `ClusterError`.

    Raises:
        ClusterError: no dashboard answers at the address, or it rejects the token.
    """

    def __init__(self, address: str) -> None:
        for name in _VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # it takes precedence over the argument of Ray's client
        with self._errors():
            self._client = _ClientWithTimeout(address)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs of the cluster, including those that have ended."""
        with self._errors():
            return [_record(job) for job in self._client.list_jobs() if job.submission_id]

    def job(self, job_id: str) -> JobRecord | None:
        """Return a job, or None if the cluster has no job with this id."""
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
            DuplicateJobError: the cluster already has a job with this id.
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
        """Request a job to stop; a pending job stops only once it starts."""
        with self._errors():
            self._client.stop_job(job_id)

    def kill_pending(self, job_id: str) -> None:
        """End a job whose driver has not started.

        The jobs API cannot do this. A second job can: it requests no resources, so it starts on the head immediately.
        """
        driver = [JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id), SUPERVISOR_ACTOR_RAY_NAMESPACE]
        with self._errors():
            self._client.submit_job(
                entrypoint=shlex.join(["python", "-c", _KILL_SCRIPT, *driver]),
                submission_id=f"stop-{job_id}-{secrets.token_hex(3)}",
            )

    def tail(self, job_id: str) -> Generator[str | None, None, None]:
        """Yield the log from its start in chunks while it grows, and None whenever it is silent for some seconds.

        The stream ends when the server closes it, which does not mean that the job has ended.

        Raises:
            UnreachableError: the connection was lost.
        """
        loop = asyncio.new_event_loop()
        chunks = self._client.tail_job_logs(job_id)
        task = loop.create_task(_next(chunks))
        try:
            while True:
                loop.run_until_complete(asyncio.wait({task}, timeout=_SILENCE_S))
                if not task.done():
                    yield None
                    continue
                chunk = task.result()
                if chunk is None:
                    return
                task = loop.create_task(_next(chunks))
                yield chunk
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise UnreachableError(one_line(error)) from None
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError, RuntimeError):
                loop.run_until_complete(task)
            loop.run_until_complete(chunks.aclose())
            loop.close()

    def log(self, job_id: str) -> str:
        """Return the current log."""
        with self._errors():
            return str(self._client.get_job_logs(job_id))

    def machines(self) -> list[dict[str, float]]:
        """Return the resources of every live node, by Ray's names."""
        with self._errors():
            nodes = list_nodes(self.address, timeout=_REQUEST_TIMEOUT_S, raise_on_missing_output=False)
        return [dict(node.resources_total) for node in nodes if node.state == "ALIVE"]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert the exceptions of Ray's client into `ClusterError`s of one line."""
        try:
            yield
        except AuthenticationError as error:
            is_rejected = "Authentication failed" in str(error)
            raise ClusterError(f"{self.address}: {_FORBIDDEN if is_rejected else _UNAUTHENTICATED}") from None
        except (requests.ConnectionError, requests.Timeout, ConnectionError):
            raise UnreachableError(f"{self.address}: no answer; {_NO_ANSWER}") from None
        except requests.RequestException as error:
            raise UnreachableError(f"{self.address}: no Ray dashboard at this address ({one_line(error)})") from None
        except (RuntimeError, RayError, RayStateApiException) as error:
            raise UnreachableError(f"{self.address}: {one_line(error)}") from None


def _record(job: Any) -> JobRecord:
    return JobRecord(job.submission_id, job.status.value, job.message or "", job.driver_exit_code, job.metadata or {})


async def _next(chunks: Any) -> str | None:
    return await anext(chunks, None)
