"""Every job that uses Ray, submitted to a cluster of cluster.yaml that has no node but its head.

At first the cloud has no capacity for GPU nodes and does not answer requests for others; then it launches both. No GPU
exists behind those nodes, so a job that needs one fails in its first task.
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
from tests.rehearsal.recipes import ON_CPUS, ON_GPUS, write_inputs, write_recipes

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
class Ended:
    """A submitted job that has ended.

    Attributes:
        waiting: its log before the cloud launched any node.
        log: its complete log.
    """

    waiting: str
    log: str
    status: JobStatus


@pytest.fixture(scope="module")
def ended(cluster: GrowingCluster, work: Path, recipes: dict[str, str]) -> dict[str, Ended]:
    """All jobs, submitted at once to the empty cluster, and one that it can never run."""
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
    cluster.client.stop_job(cluster.submitted["search_glue"])  # what follows its trials takes as long as all other jobs
    wait_until(lambda: all(cluster.status(name).is_terminal() for name in waiting), ENDS_S)
    return {name: Ended(waiting[name], cluster.log(name), cluster.status(name)) for name in waiting}


def has_trial(work: Path) -> bool:
    return any((work / "runs/search_glue/trials").glob("*/*/record.json"))


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_job_waits_for_nodes_and_reports_it(ended: dict[str, Ended], job: str) -> None:
    assert re.search(rf"^{job}: {WAITING} ", ended[job].waiting, re.MULTILINE), ended[job].log[-4000:]


@pytest.mark.parametrize("job", ON_GPUS)
def test_a_waiting_job_reports_why_the_cloud_launches_no_node(ended: dict[str, Ended], job: str) -> None:
    lines = [line for line in ended[job].waiting.splitlines() if WAITING in line]
    assert any("InsufficientInstanceCapacity" in line and NO_CAPACITY in line for line in lines), lines


@pytest.mark.parametrize("job", [job for job in ON_CPUS if job != "search_glue"])
def test_a_job_completes_once_the_cloud_launches_nodes(ended: dict[str, Ended], work: Path, job: str) -> None:
    assert ended[job].status == JobStatus.SUCCEEDED, ended[job].log[-4000:]
    assert json.loads((work / "runs" / job / "manifest.json").read_text())["content"]["job"] == job


def test_the_search_ends_its_first_trial(ended: dict[str, Ended], work: Path) -> None:
    assert has_trial(work), ended["search_glue"].log[-4000:]


@pytest.mark.parametrize("job", ON_GPUS)
def test_a_job_on_gpus_reaches_its_first_task(ended: dict[str, Ended], job: str) -> None:
    """The installed build of torch has no CUDA."""
    assert ended[job].status == JobStatus.FAILED, ended[job].log[-4000:]
    assert re.search("CUDA|NCCL", ended[job].log), ended[job].log[-4000:]


def test_a_job_that_no_node_type_can_hold_reports_it_and_can_be_stopped(ended: dict[str, Ended]) -> None:
    assert NO_NODE_TYPE in ended[IMPOSSIBLE].waiting
    assert ended[IMPOSSIBLE].status == JobStatus.STOPPED


def test_ended_jobs_leave_no_demand_that_would_keep_nodes(cluster: GrowingCluster, ended: dict[str, Ended]) -> None:
    demands = cluster.scaling().resource_demands
    assert not [*demands.placement_group_demand, *demands.ray_task_actor_demand]


# A node of the cluster that does not share the run folder. The jobs run in this process, to import torch only once.


@pytest.fixture(scope="module")
def refused(
    cluster: GrowingCluster, ended: dict[str, Ended], root: Path, work: Path, recipes: dict[str, str]
) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of each job, with its run folder on a disk of one node."""
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
def test_a_job_names_the_node_that_does_not_share_its_run_folder(refused: dict[str, tuple[int, str]], job: str) -> None:
    code, stderr = refused[job]
    *_, line = stderr.splitlines()
    assert code == BAD_INPUT
    assert line.startswith(f"{job}: ")
    assert PRIVATE_ADDRESS in line


@pytest.mark.parametrize("job", [*ON_CPUS, *ON_GPUS])
def test_a_refused_job_has_done_no_work(refused: dict[str, tuple[int, str]], work: Path, job: str) -> None:
    """Descriptions of a run are files of its folder; results are in folders below it."""
    run_folder = work / "private" / job
    assert not [file for file in run_folder.glob("*/**/*") if file.is_file()]
