"""Jobs on a cluster with the node types of cluster.yaml that only has a head.

At first the cloud has no capacity for GPU nodes and does not respond to requests for others; then it launches both.
The GPU nodes have no real GPU, so that a job that needs one fails in its first task.
"""

import contextlib
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
from tests.tiny.recipes import ON_CPUS, ON_GPUS, load_job, write_inputs, write_recipes

pytestmark = pytest.mark.slow

# One job for each use of a cluster: tasks, training workers and trials on CPUs, training workers and actors on GPUs.
SEARCH = "search_glue"
COMPLETED = ("encode_corpus", "train_teacher")
NEED_GPUS = ("distill", "evaluate_fill_mask")
SUBMITTED = (*NEED_GPUS, *COMPLETED, SEARCH)

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
    """Jobs that were submitted simultaneously to the empty cluster, and one that it can never run."""
    cluster.refuse("gpu8", f"InsufficientInstanceCapacity: {NO_CAPACITY}")
    for job in SUBMITTED:
        cluster.submit(job, job, recipes[job])
    labels = {DATA_LABELS: "role=none"}
    cluster.submit(IMPOSSIBLE, "build_corpus", recipes["build_corpus"], f"run_dir={work}/none", **labels)
    waiting = cluster.wait_for_logs([*COMPLETED, SEARCH], WAITING, WAITS_S)
    waiting |= cluster.wait_for_logs(NEED_GPUS, NO_CAPACITY, WAITS_S)
    waiting |= cluster.wait_for_logs([IMPOSSIBLE], NO_NODE_TYPE, WAITS_S)
    cluster.client.stop_job(cluster.submitted[IMPOSSIBLE])
    for node_type in ("cpu_spot", "gpu8"):
        cluster.grant(node_type)
    wait_until(lambda: has_trial(work) or cluster.status(SEARCH).is_terminal(), ENDS_S)
    cluster.client.stop_job(cluster.submitted[SEARCH])  # its rest would take as long as all other jobs
    wait_until(lambda: all(cluster.status(name).is_terminal() for name in waiting), ENDS_S)
    return {name: FinishedJob(waiting[name], cluster.log(name), cluster.status(name)) for name in waiting}


def has_trial(work: Path) -> bool:
    return any((work / f"runs/{SEARCH}/trials").glob("*/*/record.json"))


@pytest.mark.parametrize("job", SUBMITTED)
def test_a_job_waits_for_nodes_and_reports_it(finished: dict[str, FinishedJob], job: str) -> None:
    lines = [line for line in finished[job].waiting.splitlines() if line.startswith(f"{job}: {WAITING} ")]
    assert lines, finished[job].log[-4000:]
    if job in NEED_GPUS:
        assert any("InsufficientInstanceCapacity" in line and NO_CAPACITY in line for line in lines), lines


@pytest.mark.parametrize("job", SUBMITTED)
def test_a_job_runs_once_the_cloud_launches_nodes(finished: dict[str, FinishedJob], work: Path, job: str) -> None:
    """Those on GPUs fail in their first task, because the installed build of torch has no CUDA."""
    log, status = finished[job].log, finished[job].status
    if job in COMPLETED:
        assert status == JobStatus.SUCCEEDED, log[-4000:]
        assert json.loads((work / "runs" / job / "manifest.json").read_text())["content"]["job"] == job
    elif job in NEED_GPUS:
        assert status == JobStatus.FAILED, log[-4000:]
        assert re.search("CUDA|NCCL", log), log[-4000:]
    else:
        assert has_trial(work), log[-4000:]


def test_a_job_that_fits_no_node_type_reports_it_and_can_be_stopped(finished: dict[str, FinishedJob]) -> None:
    assert NO_NODE_TYPE in finished[IMPOSSIBLE].waiting
    assert finished[IMPOSSIBLE].status == JobStatus.STOPPED


def test_finished_jobs_leave_no_demand_for_nodes(cluster: GrowingCluster, finished: dict[str, FinishedJob]) -> None:
    demands = cluster.scaling().resource_demands
    assert not [*demands.placement_group_demand, *demands.ray_task_actor_demand]


# A node that does not share the run folder. The jobs run in this process, to import torch only once. The check belongs
# to that of the capacity, so that it also shows that each job makes the latter.


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
        code = load_job(job).main(arguments)
    return code, stderr.getvalue()


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_job_names_the_node_that_does_not_share_its_run_folder_and_does_no_work(
    rejected: dict[str, tuple[int, str]], work: Path, job: str
) -> None:
    code, stderr = rejected[job]
    *_, line = stderr.splitlines()
    assert code == BAD_INPUT
    assert line.startswith(f"{job}: ")
    assert PRIVATE_ADDRESS in line
    # A run folder contains descriptions as files, and results in subfolders.
    assert not [file for file in (work / "private" / job).glob("*/**/*") if file.is_file()]
