"""cluster.yaml and cluster.local.yaml override unsafe defaults of Ray.

The doctor checks their schema, images, mounts, GPUs, profiles, security groups and tokens; see its tests.
"""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler.aws
import yaml
from ray.autoscaler._private.util import prepare_config

from distilray.runtime.session import DATA_LABELS

Cluster = dict[str, Any]
ROOT = Path(__file__).parents[2]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


WRITTEN: Cluster = read(ROOT / "cluster.yaml")
RAY_DEFAULTS: Cluster = read(Path(ray.autoscaler.aws.__file__).parent / "defaults.yaml")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """Content of cluster.yaml with Ray's defaults, as in `ray up`."""
    return prepare_config(deepcopy(WRITTEN))


@pytest.fixture(scope="module")
def local_cluster() -> Cluster:
    """Content of cluster.local.yaml with Ray's defaults."""
    return prepare_config(read(ROOT / "cluster.local.yaml"))


def starts(cluster: Cluster) -> list[str]:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_no_default_command_remains(cluster: Cluster) -> None:
    stages = [stage for stage in RAY_DEFAULTS if stage.endswith("_commands")]
    lines = [(stage, line) for stage in stages for line in cluster[stage]]
    assert "ray-3.0.0.dev0" in str(RAY_DEFAULTS["setup_commands"])  # a nightly build
    assert not [line for stage, line in lines if line in RAY_DEFAULTS[stage] and "start" in line]
    assert not [line for _, line in lines if "install" in line or "wheel" in line]


def test_ray_starts_with_tokens_and_a_dashboard_on_loopback(cluster: Cluster, local_cluster: Cluster) -> None:
    assert "--dashboard-host=0.0.0.0" in str(RAY_DEFAULTS["head_start_ray_commands"])
    for each, token_mode in ((cluster, "RAY_AUTH_MODE=token ray start"), (local_cluster, "RAY_AUTH_MODE=token ")):
        head, worker = starts(each)
        assert all(token_mode in command for command in (head, worker))
        assert "--head" in head
        assert "--dashboard-host=127.0.0.1" in head
        assert "0.0.0.0" not in head
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "RAY_AUTH_TOKEN=" not in (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_machines_are_terminated_instead_of_stopped(cluster: Cluster) -> None:
    assert RAY_DEFAULTS["provider"]["cache_stopped_nodes"] is True
    assert cluster["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", WRITTEN["available_node_types"])
def test_every_machine_overrides_unsafe_defaults(cluster: Cluster, name: str) -> None:
    # By default, Ray uses an Ubuntu 18.04 image, opens port 22 to the world, and grants full access to EC2 and S3.
    config = cluster["available_node_types"][name]["node_config"]
    written = WRITTEN["available_node_types"][name]["node_config"]
    for key in ("ImageId", "SecurityGroupIds", "IamInstanceProfile"):
        assert config[key]
        assert "REPLACE" in str(written[key])  # to be set by the user
    assert config["MetadataOptions"]["HttpTokens"] == "required"
    disks = [mapping["Ebs"] for mapping in config["BlockDeviceMappings"]]
    assert disks
    assert all(disk["Encrypted"] and disk["VolumeType"] == "gp3" for disk in disks)


def test_the_node_types_have_their_roles(cluster: Cluster) -> None:
    head, gpu8, cpu_spot = (cluster["available_node_types"][name] for name in ("head", "gpu8", "cpu_spot"))
    assert cluster["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}  # runs no work
    assert (gpu8["min_workers"], gpu8["max_workers"], gpu8["resources"]["GPU"]) == (0, 1, 8)
    assert gpu8["labels"]["role"] == "train"
    assert "InstanceMarketOptions" not in gpu8["node_config"]
    assert cpu_spot["labels"] == {"role": "data", "market": "spot"}
    assert cpu_spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert cluster["max_workers"] == gpu8["max_workers"] + cpu_spot["max_workers"]


def test_data_tasks_are_restricted_to_data_machines(cluster: Cluster) -> None:
    (setting,) = [option for option in cluster["docker"]["run_options"] if DATA_LABELS in option]
    key, _, value = setting.partition("=")[2].partition("=")
    labels = {name: node_type.get("labels", {}) for name, node_type in cluster["available_node_types"].items()}
    assert [name for name, values in labels.items() if values.get(key) == value] == ["cpu_spot"]


def test_every_container_has_shared_memory_and_folders_to_spill_to(cluster: Cluster) -> None:
    types = cluster["available_node_types"]
    workers = [types[name]["docker"]["worker_run_options"] for name in types if name != "head"]
    for options in (cluster["docker"]["head_run_options"], *workers):
        assert any("--shm-size=" in option for option in options)
    assert cluster["docker"]["disable_automatic_runtime_detection"] is True  # gpu8 has --gpus all
    assert all("--object-spilling-directory=/mnt/spill" in command for command in starts(cluster))


def test_recipes_can_use_the_hub(cluster: Cluster) -> None:
    # Only `hub:` references in recipes access the hub, so that no shipped file needs to disable it.
    files = ("jobs/runtime_env.yaml", "jobs/rayjob.yaml", "serve/rayservice.yaml")
    texts = [str(cluster), *((ROOT / name).read_text(encoding="utf-8") for name in files)]
    assert not [text for text in texts if "HF_HUB_OFFLINE" in text]


def test_no_data_environment_or_history_is_synchronized(cluster: Cluster) -> None:
    assert {"**/.git", "**/.venv", "**/runs"} <= set(cluster["rsync_exclude"])


def test_both_files_have_the_same_environment_for_serve(cluster: Cluster, local_cluster: Cluster) -> None:
    options = [option.removeprefix("--env ") for option in cluster["docker"]["run_options"] if "RAY_SERVE_" in option]
    assert options
    assert not [option for option in options for command in starts(local_cluster) if option not in command]


# API calls of `ray up`, `ray down` and the autoscaler, recorded with a simulated EC2.
PROVIDER = {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
BOOTSTRAP = {
    *("ec2:DescribeInstanceTypes", "ec2:DescribeKeyPairs", "ec2:CreateKeyPair"),
    *("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"),
}


@pytest.mark.parametrize(
    ("number", "calls", "role"), [(0, BOOTSTRAP | PROVIDER, "REPLACE_HEAD"), (1, PROVIDER, "REPLACE_WORKER")]
)
def test_a_documented_policy_allows_only_the_calls_of_ray(number: int, calls: set[str], role: str) -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    statements = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[number])["Statement"]
    actions = [[each["Action"]] if isinstance(each["Action"], str) else each["Action"] for each in statements]
    assert {action for each in actions for action in each} == calls | {"iam:PassRole"}
    [resource] = [each["Resource"] for each in statements if each["Action"] == "iam:PassRole"]
    assert resource == f"arn:aws:iam::REPLACE_ACCOUNT:role/{role}"
    [termination] = [each for each in statements if "ec2:TerminateInstances" in each["Action"]]
    tag = {"aws:ResourceTag/ray-cluster-name": WRITTEN["cluster_name"]}
    assert termination["Condition"] == {"StringEquals": tag}
