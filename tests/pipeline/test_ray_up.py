"""`ray up`, jobs, `ray exec` and `ray down` as docs/operations.md prints them, on this machine over ssh."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.distilray.tiny_line import write_shards, write_teacher, write_tokenizer
from tests.pipeline.loopback_ssh import HEAD, RAY, WORKER, Machines, loopback_machines, missing, write_cluster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=str(missing()))]

NODES_S = 90
OF_RAY = ("/raylet/raylet ", "/gcs_server ", "ray::", "site-packages/ray")


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Attributes:
        file: its YAML file.
        address: of its jobs API, at this end of the tunnel.
    """

    machines: Machines
    file: str
    address: str
    root: Path

    def submit(self, job: str, recipe: str, *overrides: str) -> str:
        """`ray job submit` as the docs print it; gives what it printed."""
        command = ["python", "-m", f"jobs.{job}", "--recipe", f"jobs/recipes/{job}/{recipe}.yaml", *overrides]
        places = ["--address", self.address, "--working-dir", str(self.root)]
        environment = ["--runtime-env", str(self.root / "jobs/runtime_env.yaml")]
        return self.machines.ray("job", "submit", *places, *environment, "--", *command, limit_s=300)


@pytest.fixture(scope="module")
def cluster(free_port: Callable[[], int], root: Path) -> Iterator[Cluster]:
    """A head and a worker, each with an address of its own."""
    with loopback_machines(free_port) as machines:
        file = str(write_cluster(machines, root / "cluster.local.yaml", workers=[WORKER]))
        machines.ray("up", "--yes", "--no-config-cache", file)
        port = free_port()
        with tunnel(machines, file, port):
            yield Cluster(machines, file, f"http://{HEAD}:{port}", root)


@contextlib.contextmanager
def tunnel(machines: Machines, file: str, port: int) -> Iterator[None]:
    """`ray dashboard`, which is left running."""
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
        os.killpg(process.pid, signal.SIGTERM)  # with its ssh
        process.wait(10)


def test_commands_reach_a_cluster_of_both_machines(cluster: Cluster) -> None:
    deadline = time.monotonic() + NODES_S
    while f"/{2 * (os.cpu_count() or 1)}.0 CPU" not in (
        seen := cluster.machines.ray("exec", "--no-config-cache", cluster.file, "ray status")
    ):
        assert time.monotonic() < deadline, seen
        time.sleep(1)


def test_a_corpus_is_built_there(cluster: Cluster, tmp_path: Path) -> None:
    cluster.submit("build_corpus", "quickstart", f"run_dir={tmp_path}/corpus")
    manifest = json.loads((tmp_path / "corpus/manifest.json").read_text())
    assert manifest["content"]["counts"]["documents"] == 97


def test_two_workers_distil_there(cluster: Cluster, tmp_path: Path) -> None:
    tokenizer_dir = write_tokenizer(tmp_path / "tokenizer")
    write_shards(tmp_path / "shards", tokenizer_dir)
    write_teacher(tmp_path / "teacher/model", tokenizer_dir)
    places = {"run_dir": "student", "shards_dir": "shards", "teacher_dir": "teacher"}
    printed = cluster.submit(
        "distill",
        "quickstart",
        *(f"{key}={tmp_path}/{name}" for key, name in places.items()),
        "max_steps=4",
        "batch_size=24",
        "micro_batch_size=12",
        "scaling={num_workers: 2, use_gpu: false, cpus_per_worker: 1}",
    )
    assert "distill: 4 steps" in printed
    assert (tmp_path / "student/model/model.safetensors").is_file()


def test_ray_down_ends_ray_on_the_head(cluster: Cluster) -> None:
    """The workers miss it after a minute, and end then."""
    assert len(cluster.machines.processes("/raylet/raylet ")) == 2
    cluster.machines.ray("down", "--yes", cluster.file)
    deadline = time.monotonic() + 20
    while left := cluster.machines.processes(*OF_RAY, address=HEAD):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
