"""Every job that uses Ray, submitted to a cluster of cluster.yaml that has no node but its head.

First the cloud has no capacity for GPU nodes and lets requests for others wait; then it launches both. The GPUs of this
cluster are only claimed, so a job that needs them ends in its first task on them.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from distilray.runtime.job import EXIT_BAD_INPUT
from distilray.runtime.run_folder import CONFIG_FILE
from tests.rehearsal.growing_cluster import PRIVATE_ADDRESS, GrowingCluster, growing_cluster
from tests.rehearsal.recipes import ON_CPUS, ON_GPUS, write_inputs, write_recipes

pytestmark = pytest.mark.slow

TOO_LARGE = "distill, too large"
WAITING = "waiting for"
NO_CAPACITY = "We currently do not have sufficient p4d.24xlarge capacity in zones with support for gp3 volumes"
WAITS_S, ENDS_S, STOPS_S = 90, 180, 30  # seconds that a busy machine may take; usually a third


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
    """How a job went.

    Attributes:
        waiting: its log before the cloud launched anything.
        log: its log at the end.
    """

    waiting: str
    log: str
    status: JobStatus


@pytest.fixture(scope="module")
def ended(cluster: GrowingCluster, work: Path, recipes: dict[str, str]) -> dict[str, Ended]:
    """All jobs, submitted together to the empty cluster."""
    cluster.refuse("gpu8", f"InsufficientInstanceCapacity: {NO_CAPACITY}")
    for name in (*ON_GPUS, *ON_CPUS):
        cluster.submit(name, name, recipes[name])
    too_large = ("scaling.num_workers=9", "batch_size=36", f"run_dir={work}/runs/too_large")
    cluster.submit(TOO_LARGE, "distill", recipes["distill"], *too_large)
    waiting = cluster.wait_for_logs([*ON_CPUS, TOO_LARGE], WAITING, WAITS_S)
    waiting |= cluster.wait_for_logs(ON_GPUS, NO_CAPACITY, WAITS_S)
    cluster.wait_for_end([TOO_LARGE], STOPS_S)
    for node_type in ("cpu_spot", "gpu8"):
        cluster.grant(node_type)
    cluster.wait_for_end([*ON_CPUS, *ON_GPUS], ENDS_S)
    return {name: Ended(waiting[name], cluster.log(name), cluster.status(name)) for name in waiting}


def test_every_job_that_starts_ray_is_submitted_here(root: Path) -> None:
    """Apart from those that run other jobs one after another, and the service."""
    uses_ray = {"build_corpus", "encode_corpus", "cache_teacher", "train_teacher", "distill", "evaluate_glue",
                "search_glue", "evaluate_fill_mask"}  # fmt: skip
    assert {name.removesuffix("-gpu") for name in (*ON_CPUS, *ON_GPUS)} == uses_ray


@pytest.mark.parametrize("name", [*ON_CPUS, *ON_GPUS])
def test_a_job_waits_for_nodes_and_reports_it(ended: dict[str, Ended], name: str) -> None:
    assert WAITING in ended[name].waiting


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_waiting_job_reports_why_the_cloud_launches_no_node(ended: dict[str, Ended], name: str) -> None:
    lines = [line for line in ended[name].waiting.splitlines() if WAITING in line]
    assert any("InsufficientInstanceCapacity" in line and NO_CAPACITY in line for line in lines)


@pytest.mark.parametrize("name", ON_CPUS)
def test_a_job_completes_once_nodes_are_there(ended: dict[str, Ended], work: Path, name: str) -> None:
    assert ended[name].status == JobStatus.SUCCEEDED, ended[name].log[-4000:]
    assert json.loads((work / "runs" / name / "manifest.json").read_text())["content"]["job"] == name


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_job_on_gpus_reaches_its_first_task(ended: dict[str, Ended], name: str) -> None:
    assert ended[name].status == JobStatus.FAILED, ended[name].log[-4000:]
    assert re.search(r"CUDA|NVIDIA", ended[name].log), ended[name].log[-4000:]


def test_a_job_that_no_node_type_can_hold_says_so(ended: dict[str, Ended]) -> None:
    log = ended[TOO_LARGE].log
    assert log == "x"


@pytest.fixture(scope="module")
def refused(cluster: GrowingCluster, ended: dict[str, Ended], work: Path, recipes: dict[str, str]) -> dict[str, str]:
    """The same jobs, with their run folders on a disk of one node; gives their logs."""
    folder = work / "private"
    folder.mkdir()
    with cluster.node_with_private_mount(folder):
        for job in (*ON_CPUS, *ON_GPUS):
            cluster.submit(f"{job}, private", job, recipes[job], f"run_dir={folder}/{job}")
        cluster.wait_for_end([f"{job}, private" for job in (*ON_CPUS, *ON_GPUS)], ENDS_S)
        return {job: cluster.log(f"{job}, private") for job in (*ON_CPUS, *ON_GPUS)}


@pytest.mark.parametrize("name", [*ON_CPUS, *ON_GPUS])
def test_a_job_names_the_node_that_does_not_share_its_run_folder(
    cluster: GrowingCluster, refused: dict[str, str], name: str
) -> None:
    *_, line = refused[name].strip().splitlines()
    assert line.startswith(f"{name}: ")
    assert PRIVATE_ADDRESS in line
    assert cluster.exit_code(f"{name}, private") == EXIT_BAD_INPUT


@pytest.mark.parametrize("name", [*ON_CPUS, *ON_GPUS])
def test_such_a_job_has_done_no_work(refused: dict[str, str], work: Path, name: str) -> None:
    run = work / "private" / name
    assert {file.name for file in run.rglob("*") if file.is_file()} <= {CONFIG_FILE}
