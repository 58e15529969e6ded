"""`ray up`, jobs, `ray exec` and `ray down` as in docs/operations.md, on this machine over ssh."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipeline.loopback_ssh import HEAD, RAY, WORKER, Machines, loopback_machines, missing, write_cluster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=str(missing()))]

NODES_S = 90
RAY_PROCESSES = ("/raylet/raylet ", "/gcs_server ", "ray::", "site-packages/ray")


@dataclass(frozen=True)
class Cluster:
    """Running cluster.

    Attributes:
        file: YAML file of the cluster.
        address: local address of the tunnel to its jobs API.
    """

    machines: Machines
    file: str
    address: str
    root: Path

    def submit(self, job: str, recipe: str, *overrides: str) -> str:
        """Run `ray job submit` as in the documentation, and return its output."""
        command = ["python", "-m", f"jobs.{job}", "--recipe", f"jobs/recipes/{job}/{recipe}.yaml", *overrides]
        options = ["--address", self.address, "--working-dir", str(self.root)]
        options += ["--runtime-env", str(self.root / "jobs/runtime_env.yaml")]
        return self.machines.ray("job", "submit", *options, "--", *command, limit_s=300)


@pytest.fixture(scope="module")
def cluster(free_port: Callable[[], int], root: Path) -> Iterator[Cluster]:
    """Cluster with a head and a worker, which have different addresses."""
    with loopback_machines(free_port) as machines:
        file = str(write_cluster(machines, root / "cluster.local.yaml", workers=[WORKER]))
        machines.ray("up", "--yes", "--no-config-cache", file)
        port = free_port()
        with tunnel(machines, file, port):
            yield Cluster(machines, file, f"http://{HEAD}:{port}", root)


@contextlib.contextmanager
def tunnel(machines: Machines, file: str, port: int) -> Iterator[None]:
    """Run `ray dashboard` until the block ends."""
    command = [str(RAY), "dashboard", file, "--no-config-cache", f"--port={port}"]
    command.append(f"--remote-port={machines.dashboard_port}")
    process = subprocess.Popen(
        command, env=machines.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HEAD, port), timeout=1):
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # including its ssh process
        process.wait(10)


def test_the_cluster_consists_of_both_machines(cluster: Cluster) -> None:
    deadline = time.monotonic() + NODES_S
    while f"/{2 * (os.cpu_count() or 1)}.0 CPU" not in (
        status := cluster.machines.ray("exec", "--no-config-cache", cluster.file, "ray status")
    ):
        assert time.monotonic() < deadline, status
        time.sleep(1)


def test_two_workers_can_distill_on_the_cluster(
    cluster: Cluster, tmp_path: Path, shards_dir: str, teacher_dir: str
) -> None:
    folders = (f"run_dir={tmp_path}/student", f"shards_dir={shards_dir}", f"teacher_dir={teacher_dir}")
    sizes = ("max_steps=4", "batch_size=24", "micro_batch_size=12")
    scaling = "scaling={num_workers: 2, use_gpu: false, cpus_per_worker: 1}"
    assert "distill: 4 steps" in cluster.submit("distill", "quickstart", *folders, *sizes, scaling)
    assert (tmp_path / "student/model/model.safetensors").is_file()


def test_ray_down_stops_ray_on_the_head(cluster: Cluster) -> None:
    """The workers exit a minute later, when they detect the loss of the head."""
    assert len(cluster.machines.processes("/raylet/raylet ")) == 2
    cluster.machines.ray("down", "--yes", cluster.file)
    deadline = time.monotonic() + 20
    while remaining := cluster.machines.processes(*RAY_PROCESSES, address=HEAD):
        assert time.monotonic() < deadline, remaining
        time.sleep(0.2)
