"""All jobs that use Ray, submitted to a cluster with the node types of cluster.yaml that only has a head.

At first the cloud has no capacity for GPU nodes and does not respond to requests for others; then it launches both.
The GPU nodes have no real GPU, so that a job that needs one fails in its first task.
"""

import contextlib
import importlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobStatus

from distilray.runtime.session import DATA_LABELS
from tests.rehearsal.growing_cluster import PRIVATE_ADDRESS, GrowingCluster, growing_cluster, wait_until
from tests.tiny.recipes import ON_CPUS, ON_GPUS, write_inputs, write_recipes

pytestmark = pytest.mark.slow

BAD_INPUT = 2  # exit code
WAITING = "waiting for"
NO_CAPACITY = "We currently do not have sufficient p4d.24xlarge capacity in zones with support for gp3 volumes"
IMPOSSIBLE, NO_NODE_TYPE = "impossible", "no node type of the cluster is large enough"
WAITS_S, ENDS_S = 360, 800  # seconds on a busy machine; usually a sixth


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def recipes(work: Path) -> dict[str, str]:
    return write_recipes(work)


@pytest.fixture(scope="module")
def cluster(root: Path, free_port: Callable[[], int]) -> Iterator[GrowingCluster]:
    with growing_cluster(root, free_port) as cluster:
        yield cluster


@dataclass(frozen=True)
class FinishedJob:
    """Finished job.

    Attributes:
        waiting: log before the cloud launched any node.
        log: complete log.
    """

    waiting: str
    log: str
    status: JobStatus


@pytest.fixture(scope="module")
def finished(cluster: GrowingCluster, work: Path, recipes: dict[str, str]) -> dict[str, FinishedJob]:
    """All jobs, submitted simultaneously to the empty cluster, and one that it can never run."""
    cluster.refuse("gpu8", f"InsufficientInstanceCapacity: {NO_CAPACITY}")
    for job in (*ON_GPUS, *ON_CPUS):
        cluster.submit(job, job, recipes[job])
    labels = {DATA_LABELS: "role=none"}
    cluster.submit(IMPOSSIBLE, "build_corpus", recipes["build_corpus"], f"run_dir={work}/none", **labels)
    waiting = cluster.wait_for_logs(ON_CPUS, WAITING, WAITS_S)
    waiting |= cluster.wait_for_logs(ON_GPUS, NO_CAPACITY, WAITS_S)
    waiting |= cluster.wait_for_logs([IMPOSSIBLE], NO_NODE_TYPE, WAITS_S)
    cluster.client.stop_job(cluster.submitted[IMPOSSIBLE])
    for node_type in ("cpu_spot", "gpu8"):
        cluster.grant(node_type)
    wait_until(lambda: has_trial(work) or cluster.status("search_glue").is_terminal(), ENDS_S)
    cluster.client.stop_job(
        cluster.submitted["search_glue"]
    )  # the rest of the search would take as long as all other jobs
    wait_until(lambda: all(cluster.status(name).is_terminal() for name in waiting), ENDS_S)
    return {name: FinishedJob(waiting[name], cluster.log(name), cluster.status(name)) for name in waiting}


def has_trial(work: Path) -> bool:
    return any((work / "runs/search_glue/trials").glob("*/*/record.json"))


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_job_waits_for_nodes_and_reports_it(finished: dict[str, FinishedJob], job: str) -> None:
    assert re.search(rf"^{job}: {WAITING} ", finished[job].waiting, re.MULTILINE), finished[job].log[-4000:]


@pytest.mark.parametrize("job", ON_GPUS)
def test_a_waiting_job_reports_why_the_cloud_launches_no_node(finished: dict[str, FinishedJob], job: str) -> None:
    lines = [line for line in finished[job].waiting.splitlines() if WAITING in line]
    assert any("InsufficientInstanceCapacity" in line and NO_CAPACITY in line for line in lines), lines


@pytest.mark.parametrize("job", [job for job in ON_CPUS if job != "search_glue"])
def test_a_job_completes_once_the_cloud_launches_nodes(finished: dict[str, FinishedJob], work: Path, job: str) -> None:
    assert finished[job].status == JobStatus.SUCCEEDED, finished[job].log[-4000:]
    assert json.loads((work / "runs" / job / "manifest.json").read_text())["content"]["job"] == job


def test_the_search_completes_its_first_trial(finished: dict[str, FinishedJob], work: Path) -> None:
    assert has_trial(work), finished["search_glue"].log[-4000:]


@pytest.mark.parametrize("job", ON_GPUS)
def test_a_job_on_gpus_reaches_its_first_task(finished: dict[str, FinishedJob], job: str) -> None:
    """It fails there, because the installed build of torch has no CUDA."""
    assert finished[job].status == JobStatus.FAILED, finished[job].log[-4000:]
    assert re.search("CUDA|NCCL", finished[job].log), finished[job].log[-4000:]


def test_a_job_that_fits_no_node_type_reports_it_and_can_be_stopped(finished: dict[str, FinishedJob]) -> None:
    assert NO_NODE_TYPE in finished[IMPOSSIBLE].waiting
    assert finished[IMPOSSIBLE].status == JobStatus.STOPPED


def test_finished_jobs_leave_no_demand_for_nodes(cluster: GrowingCluster, finished: dict[str, FinishedJob]) -> None:
    demands = cluster.scaling().resource_demands
    assert not [*demands.placement_group_demand, *demands.ray_task_actor_demand]


# A node that does not share the run folder. The jobs run in this process, to import torch only once.


@pytest.fixture(scope="module")
def rejected(
    cluster: GrowingCluster, finished: dict[str, FinishedJob], root: Path, work: Path, recipes: dict[str, str]
) -> dict[str, tuple[int, str]]:
    """Exit code and stderr by job, with run folders on a local disk of one node."""
    folder = work / "private"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, cluster.node_with_private_mount(folder):
        patch.setenv("RAY_ADDRESS", cluster.gcs)
        workers = {"env_vars": {"PYTHONPATH": f"{root}:{root / 'platform'}"}}
        ray.init(runtime_env=workers, log_to_driver=False, logging_level="ERROR")
        try:
            return {job: run(job, "--recipe", recipes[job], f"run_dir={folder}/{job}") for job in recipes}
        finally:
            ray.shutdown()


def run(job: str, *arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = importlib.import_module(f"jobs.{job}").main(arguments)
    return code, stderr.getvalue()


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_job_names_the_node_that_does_not_share_its_run_folder(
    rejected: dict[str, tuple[int, str]], job: str
) -> None:
    code, stderr = rejected[job]
    *_, line = stderr.splitlines()
    assert code == BAD_INPUT
    assert line.startswith(f"{job}: ")
    assert PRIVATE_ADDRESS in line


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_rejected_job_has_done_no_work(rejected: dict[str, tuple[int, str]], work: Path, job: str) -> None:
    """A run folder contains descriptions as files, and results in subfolders."""
    run_folder = work / "private" / job
    assert not [file for file in run_folder.glob("*/**/*") if file.is_file()]
