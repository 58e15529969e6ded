"""The jobs API of a real cluster, by Ray's client: every fault as one line with its fix."""

import asyncio
import logging
import os
import secrets
import shlex
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env import packaging
from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from distilray.operations.submission.cluster import (
    ClusterError,
    JobRecord,
    KnownJobError,
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
# What Ray's client tells beside the errors is said by us, or is of no use to a user.
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk",
              "ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir")  # fmt: skip


class _PatientClient(JobSubmissionClient):
    """Ray's client, whose requests end."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": _ANSWER_S, **options})


class RayCluster:
    """`cluster.Cluster` of a Ray dashboard.

    Raises:
        ClusterError: there is none at the address, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        _quiet()
        self._address = address
        # Ray takes the one of the environment before the one it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with _faults_of(address):
            self._client = _PatientClient(address)

    @property
    def address(self) -> str:
        """The URL of the API."""
        return self._address

    def jobs(self) -> list[JobRecord]:
        """All jobs that were ever submitted."""
        with _faults_of(self._address):
            return [_record(job) for job in self._client.list_jobs() if job.submission_id]

    def job(self, job_id: str) -> JobRecord | None:
        """One of them."""
        try:
            with _faults_of(self._address):
                return _record(self._client.get_job_info(job_id))
        except UnreachableError as error:
            if "status code 404" in str(error):
                return None
            raise

    def submit(self, submission: Submission, job_id: str) -> None:
        """Uploads the files and starts the job."""
        driver = submission.driver
        with _faults_of(self._address):
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
                raise KnownJobError(job_id) from None

    def stop(self, job_id: str) -> None:
        """Asks a job to stop; one that is pending does so when it starts."""
        with _faults_of(self._address):
            self._client.stop_job(job_id)

    def kill_pending(self, job_id: str) -> None:
        """Ends a job whose driver has not started.

        The jobs API cannot do it, but a second job can: one without resources, which starts on the head at once.
        """
        driver = [JOB_ACTOR_NAME_TEMPLATE.format(job_id=job_id), SUPERVISOR_ACTOR_RAY_NAMESPACE]
        with _faults_of(self._address):
            self._client.submit_job(
                entrypoint=shlex.join(["python", "-c", _KILL, *driver]),
                submission_id=f"stop-{job_id}-{secrets.token_hex(3)}",
            )

    def tail(self, job_id: str) -> Generator[str | None, None, None]:
        """The log from its beginning, as it grows; None every few seconds without any."""
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
        """The log as it is now."""
        with _faults_of(self._address):
            return str(self._client.get_job_logs(job_id))

    def machines(self) -> list[dict[str, float]]:
        """Resources of every machine."""
        with _faults_of(self._address):
            nodes = list_nodes(self._address, timeout=_ANSWER_S, raise_on_missing_output=False)
        return [dict(node.resources_total) for node in nodes if node.state == "ALIVE"]


def uploaded_files(root: Path, excludes: tuple[str, ...]) -> list[tuple[str, int]]:
    """The files of a folder that Ray would upload, with their bytes: its own walk, by all its ignore files."""
    _quiet()
    files = []

    def note(path: Path) -> None:
        if path.is_file():
            files.append((path.relative_to(root).as_posix(), path.stat().st_size))

    left_out = packaging._get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])
    with_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    packaging._dir_travel(root, [left_out], note, include_gitignore=with_gitignore)
    return sorted(files)


def _quiet() -> None:
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _faults_of(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into one line."""
    try:
        yield
    except AuthenticationError as error:
        refused = "Authentication failed" in str(error)
        raise ClusterError(f"{address}: {_FOREIGN if refused else _UNKNOWN}") from None
    except (requests.ConnectionError, requests.Timeout, ConnectionError):
        raise UnreachableError(f"{address}: no answer; {_NO_ANSWER}") from None
    except requests.RequestException as error:
        raise UnreachableError(f"{address}: no Ray dashboard answers there ({one_line(error)})") from None
    except (RuntimeError, RayError, RayStateApiException) as error:
        raise UnreachableError(f"{address}: {one_line(error)}") from None


def _record(job: Any) -> JobRecord:
    return JobRecord(
        id=job.submission_id,
        status=job.status.value,
        message=job.message or "",
        driver_exit_code=job.driver_exit_code,
        metadata=job.metadata or {},
    )


async def _next(pieces: Any) -> str | None:
    return await anext(pieces, None)
