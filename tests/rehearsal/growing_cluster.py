"""A cluster with the node types of cluster.yaml that starts empty, with Ray's autoscaler and the cloud of a test."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.pipeline.ray_head import RAY, START_S, Head, clean_environment, end, wait_for

LOOPBACK = "127.0.0.1"
PRIVATE_ADDRESS = "127.0.0.2"  # another address of this machine
POLL_S, STOPS_S = 1.5, 15
KEPT = ("resources", "labels", "min_workers", "max_workers", "priority", "idle_timeout_s")
COMMANDS = [f"{kind}{what}_commands" for kind in ("head_", "worker_") for what in ("setup", "start_ray")]
PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "node-manager-port",
         "object-manager-port", "runtime-env-agent-port")  # fmt: skip


@dataclass(frozen=True)
class GrowingCluster:
    """The cluster, as its user and its cloud see it.

    Attributes:
        root: of the checkout that jobs are submitted from.
        folder: of all its files.
        gcs: its address for drivers and nodes.
        client: of its jobs API.
        environment: of its head and nodes.
        submitted: the submission id of each job by the name it was given.
    """

    root: Path
    folder: Path
    gcs: str
    client: JobSubmissionClient
    environment: Mapping[str, str]
    free_port: Callable[[], int]
    submitted: dict[str, str] = field(default_factory=dict)

    def grant(self, node_type: str) -> None:
        """Let the cloud launch nodes of a type, also those that were requested before."""
        (self.folder / "answers" / node_type).write_text("")

    def refuse(self, node_type: str, error: str) -> None:
        """Let the cloud refuse nodes of a type with `code: message`."""
        (self.folder / "answers" / node_type).write_text(error)

    def submit(self, name: str, job: str, recipe: str, *overrides: str, **environment: str) -> None:
        """`ray job submit` from the checkout, as the README prints it; `name` stands for the job from then on."""
        runtime_env = yaml.safe_load((self.root / "jobs/runtime_env.yaml").read_text(encoding="utf-8"))
        runtime_env["env_vars"].update(environment)
        self.submitted[name] = self.client.submit_job(
            entrypoint=" ".join(["python", "-m", f"jobs.{job}", "--recipe", recipe, *overrides]),
            runtime_env={**runtime_env, "working_dir": str(self.root)},
        )

    def log(self, name: str) -> str:
        return self.client.get_job_logs(self.submitted[name])

    def status(self, name: str) -> JobStatus:
        return self.client.get_job_status(self.submitted[name])

    def scaling(self) -> ClusterStatus:
        """Nodes and demands as the autoscaler sees them."""
        return get_cluster_status(self.gcs)

    def wait_for_logs(self, names: Sequence[str], text: str, limit_s: float) -> dict[str, str]:
        """Return the logs of jobs, once each contains a text, its job has ended, or the time is over."""
        wait_until(lambda: all(text in self.log(name) or self.status(name).is_terminal() for name in names), limit_s)
        return {name: self.log(name) for name in names}

    @contextlib.contextmanager
    def node_with_private_mount(self, folder: Path) -> Iterator[None]:
        """A node that has a file system of its own at a folder, as an instance disk would be. Needs root."""
        command = (
            f"mount -t tmpfs tmpfs {folder} && exec {RAY} start --block --address={self.gcs} --num-cpus=4 "
            f"--node-ip-address={PRIVATE_ADDRESS} --object-store-memory=80000000 {' '.join(_ports(self.free_port))}"
        )
        private = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME"}
        node = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", command],
            env={name: value for name, value in self.environment.items() if name not in private},
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "private-node.log").open("wb"),
            start_new_session=True,
        )
        try:
            wait_until(lambda: PRIVATE_ADDRESS in self._addresses(), START_S)
            assert PRIVATE_ADDRESS in self._addresses(), (self.folder / "private-node.log").read_text()
            yield
        finally:
            end(node)

    def _addresses(self) -> set[str]:
        state = self.scaling()
        return {node.ip_address for node in (*state.active_nodes, *state.idle_nodes)}


@contextlib.contextmanager
def growing_cluster(root: Path, free_port: Callable[[], int]) -> Iterator[GrowingCluster]:
    """A head that is up as long as the block, with no other node until a job asks for one and `grant` allows it."""
    # Sockets of Ray are created below, and their paths must stay below 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="grow-"))
    (folder / "answers").mkdir()
    port, dashboard, address = free_port(), free_port(), get_node_ip_address()
    gcs = f"{address}:{port}"
    given = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))
    (folder / "cluster.json").write_text(json.dumps(_autoscaling_config(given, gcs, folder)))
    environment = {
        **clean_environment(),
        **_container_environment(given),
        "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"],
        "PYTHONPATH": str(Path(__file__).parent),  # of cloud_provider.py alone: jobs bring the project
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # this and the next two as `ray up` sets them
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": given["head_node_type"],
        "AUTOSCALER_UPDATE_INTERVAL_S": "2",
        "RAY_prestart_worker_first_driver": "0",  # a fake node of 96 CPUs would start 96 processes
        "RAY_enable_worker_prestart": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0", f"--node-ip-address={address}",
               f"--port={port}", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}",
               f"--autoscaling-config={folder}/cluster.json", f"--temp-dir={folder}",
               "--object-store-memory=100000000", f"--ray-client-server-port={free_port()}",
               *_ports(free_port)]  # fmt: skip
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        head = Head(f"http://{LOOPBACK}:{dashboard}", environment["RAY_AUTH_TOKEN"])
        wait_for(head, process, folder / "head.log")
        yield GrowingCluster(root, folder, gcs, JobSubmissionClient(head.address), environment, free_port)
    finally:
        end(process)  # its nodes are in the same process group
        wait_until(lambda: removed(folder), STOPS_S)  # their workers notice a moment later, and write logs until then


def removed(folder: Path) -> bool:
    """Removes a folder in which files may still appear; gives whether it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Returns as soon as a condition is met, or when the time is over."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _ports(free_port: Callable[[], int]) -> list[str]:
    return [f"--{name}={free_port()}" for name in PORTS]


def _autoscaling_config(given: Mapping[str, Any], gcs: str, folder: Path) -> dict[str, Any]:
    """cluster.yaml with another provider, and without what concerns machines and containers."""
    head_type = given["head_node_type"]
    types = {
        name: {**{key: node_type[key] for key in KEPT if key in node_type}, "node_config": {}}
        for name, node_type in given["available_node_types"].items()
    }
    types[head_type]["max_workers"] = 0
    provider = {
        "type": "external",
        "module": "cloud_provider.Cloud",
        "head_node_id": FAKE_HEAD_NODE_ID,
        "head_node_type": head_type,
        "gcs_address": gcs,
        "answers": str(folder / "answers"),
        "launch_multiple": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    scaling = {key: given[key] for key in ("max_workers", "upscaling_speed", "idle_timeout_minutes", "head_node_type")}
    empty = {key: [] for key in ("setup_commands", "initialization_commands", "cluster_synced_files", *COMMANDS)}
    return {
        **scaling, **empty, "cluster_name": "rehearsal", "provider": provider, "auth": {}, "file_mounts": {},
        "available_node_types": types,
    }  # fmt: skip


def _container_environment(given: Mapping[str, Any]) -> dict[str, str]:
    """Variables that cluster.yaml sets in every container."""
    options = [option.split() for option in given["docker"]["run_options"]]
    pairs = [words[1].partition("=") for words in options if words[0] in ("--env", "-e")]
    return {name: value for name, _, value in pairs}
