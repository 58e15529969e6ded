"""Containers that Ray's launcher would start from cluster.yaml with the image of the Dockerfile; needs no Docker."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from tests.layout.test_dockerfile import TEXT, all_of, environment

NODE_TYPES = ("head", "gpu8", "cpu_spot")
BOOTSTRAP = "~/ray_bootstrap_config.yaml"


class Ssh:
    """Simulated machine with Docker and no running container, which records commands."""

    ssh_user, cluster_name = "ubuntu", "distilray"

    def __init__(self, home: str) -> None:
        pairs = [f"{name}={value}" for name, value in environment(TEXT).items()]
        self.commands: list[str] = []
        self._answers = {
            "Config.Env": json.dumps(["PATH=/usr/local/bin:/usr/bin:/bin", *pairs]),
            "printenv HOME": environment(TEXT).get("HOME", home),  # otherwise Docker takes it from /etc/passwd
            "State.Running": "false",
            "command -v": "/usr/bin/docker",
            "meminfo": "MemAvailable: 32000000 kB",
            "Runtimes": "map[io.containerd.runc.v2:{} runc:{}]",
        }

    def run(self, command: str = "", **_: object) -> bytes:
        self.commands.append(command)
        return next((answer for sign, answer in self._answers.items() if sign in command), "").encode()

    def run_rsync_up(self, *_: object, **__: object) -> None: ...


@pytest.fixture(scope="module")
def home() -> str:
    """Return the home of the user of the image."""
    (user,) = re.findall(r"useradd [^&\n]* (\w+) *$", "\n".join(all_of(TEXT, "RUN")), re.MULTILINE)
    return f"/home/{user}"


@pytest.fixture(scope="module")
def cluster(root: Path) -> dict[str, Any]:
    return prepare_config(yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def commands(cluster: dict[str, Any], home: str) -> dict[str, list[str]]:
    """Commands that the launcher runs on a new machine, by node type."""
    config, found = AutoscalingConfig(cluster, skip_content_hash=True), {}
    for node_type in NODE_TYPES:
        is_head, ssh = node_type == cluster["head_node_type"], Ssh(home)
        docker = config.get_docker_config(node_type)
        runner = DockerCommandRunner.__new__(DockerCommandRunner)  # its constructor requires a provider
        runner.ssh_command_runner, runner.docker_config, runner.docker_cmd = ssh, docker, "docker"
        runner.container_name, runner.home_dir, runner.initialized = docker["container_name"], None, False
        mounts = {**cluster["file_mounts"], **({BOOTSTRAP: "config.yaml"} if is_head else {})}
        runner.run_init(as_head=is_head, file_mounts=mounts, sync_run_yet=True)
        found[node_type] = ssh.commands
    return found


@pytest.fixture(scope="module")
def started(commands: dict[str, list[str]]) -> dict[str, str]:
    """`docker run` commands by node type."""
    return {
        node_type: next(command for command in given if command.startswith("docker run"))
        for node_type, given in commands.items()
    }


def mounts(command: str) -> dict[str, str]:
    """Return mounted folders of the machine by folder in the container."""
    pairs = [given.split(":")[:2] for given in re.findall(r"-v (\S+)", command)]
    return {inside: outside for outside, inside in pairs}


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_the_token_the_run_folders_and_the_spill_folder_are_mounted(
    started: dict[str, str], cluster: dict[str, Any], home: str, root: Path, node_type: str
) -> None:
    mounted = mounts(started[node_type])
    path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", started[node_type])
    assert (path[1] if path else f"{home}/.ray/auth_token") in mounted
    recipes = [yaml.safe_load(file.read_text()) for file in (root / "jobs/recipes").glob("*/card.yaml")]
    folders = {"/".join(recipe["run_dir"].split("/")[:3]) for recipe in recipes if recipe["run_dir"].startswith("/")}
    assert folders == {"/mnt/distilray"}
    assert mounted.get("/mnt/distilray") == "/mnt/distilray"
    kind = "head" if node_type == cluster["head_node_type"] else "worker"
    (start,) = [command for command in cluster[f"{kind}_start_ray_commands"] if "ray start" in command]
    (spill,) = re.findall(r"--object-spilling-directory=(\S+)", start)
    assert mounted[spill] == spill


def test_the_bootstrap_config_is_copied_where_the_head_reads_it(
    commands: dict[str, list[str]], cluster: dict[str, Any], home: str
) -> None:
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert f"--autoscaling-config={BOOTSTRAP}" in start
    (copy,) = [command for command in commands["head"] if command.startswith("rsync") and BOOTSTRAP[2:] in command]
    assert copy.endswith(f":{home}/{BOOTSTRAP[2:]}")


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_only_containers_on_gpu_nodes_get_gpus_and_the_image_with_cuda(
    started: dict[str, str], cluster: dict[str, Any], node_type: str
) -> None:
    has_gpus = bool(cluster["available_node_types"][node_type]["resources"].get("GPU"))
    assert has_gpus == (node_type == "gpu8")
    assert ("--gpus all" in started[node_type]) == has_gpus
    assert f"distilray-{'cuda' if has_gpus else 'cpu'}@" in started[node_type]
