"""cluster.yaml is valid for Ray and overrides its unsafe defaults for AWS."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler.aws
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from distilray.runtime.session import DATA_LABELS

Cluster = dict[str, Any]


@pytest.fixture(scope="module")
def written(root: Path) -> Cluster:
    """Content of the file."""
    return yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cluster(written: Cluster) -> Cluster:
    """Content of the file with Ray's defaults, as in `ray up`."""
    return prepare_config(deepcopy(written))


@pytest.fixture(scope="module")
def defaults() -> Cluster:
    """Defaults of Ray for AWS."""
    return yaml.safe_load((Path(ray.autoscaler.aws.__file__).parent / "defaults.yaml").read_text(encoding="utf-8"))


def machines(cluster: Cluster) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node_type in cluster["available_node_types"].items():
        yield name, node_type["node_config"]


def starts(cluster: Cluster) -> list[str]:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_the_file(cluster: Cluster) -> None:
    validate_config(cluster)


def test_ray_rejects_a_misspelled_key(cluster: Cluster) -> None:
    with pytest.raises(ValidationError):
        validate_config({**cluster, "setup_comands": []})


def test_no_default_command_remains(cluster: Cluster, defaults: Cluster) -> None:
    stages = [stage for stage in defaults if stage.endswith("_commands")]
    inherited = [line for stage in stages for line in cluster[stage] if line in defaults[stage] and "start" in line]
    installing = [line for stage in stages for line in cluster[stage] if "install" in line or "wheel" in line]
    assert "ray-3.0.0.dev0" in str(defaults["setup_commands"])  # the nightly build that this test is about
    assert not inherited + installing


def test_the_dashboard_listens_only_on_loopback(cluster: Cluster, defaults: Cluster) -> None:
    assert "--dashboard-host=0.0.0.0" in str(defaults["head_start_ray_commands"])
    head = [command for command in starts(cluster) if "--head" in command]
    assert all("--dashboard-host=127.0.0.1" in command and "0.0.0.0" not in command for command in head)
    assert len(head) == 1


def test_every_ray_start_requires_tokens(cluster: Cluster) -> None:
    assert len(starts(cluster)) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts(cluster))
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]


def test_the_token_is_a_mounted_file_and_not_in_the_text(cluster: Cluster, root: Path) -> None:
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN=" not in (root / "cluster.yaml").read_text(encoding="utf-8")


def test_machines_are_terminated_and_not_kept(cluster: Cluster, defaults: Cluster) -> None:
    assert defaults["provider"]["cache_stopped_nodes"] is True
    assert cluster["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("key", ["ImageId", "SecurityGroupIds", "IamInstanceProfile"])
def test_every_machine_overrides_unsafe_defaults(cluster: Cluster, key: str) -> None:
    # By default, Ray uses an Ubuntu 18.04 image, opens port 22 to the world, and grants full access to EC2 and S3.
    assert not [name for name, config in machines(cluster) if not config.get(key)]


def test_every_machine_requires_sessions_for_its_metadata_service(cluster: Cluster) -> None:
    assert not [name for name, config in machines(cluster) if config["MetadataOptions"]["HttpTokens"] != "required"]


def test_every_disk_is_encrypted(cluster: Cluster) -> None:
    for name, config in machines(cluster):
        disks = [mapping["Ebs"] for mapping in config["BlockDeviceMappings"]]
        assert disks, name
        assert all(disk["Encrypted"] and disk["VolumeType"] == "gp3" for disk in disks), name


def test_the_head_runs_no_work(cluster: Cluster) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_training_runs_on_one_on_demand_machine_with_eight_gpus(cluster: Cluster) -> None:
    gpu8 = cluster["available_node_types"]["gpu8"]
    assert (gpu8["min_workers"], gpu8["max_workers"], gpu8["resources"]["GPU"]) == (0, 1, 8)
    assert gpu8["labels"]["role"] == "train"
    assert "InstanceMarketOptions" not in gpu8["node_config"]


def test_data_work_runs_on_spot_machines(cluster: Cluster) -> None:
    cpu_spot = cluster["available_node_types"]["cpu_spot"]
    assert cpu_spot["labels"] == {"role": "data", "market": "spot"}
    assert cpu_spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_all_workers_fit_under_the_limit_of_the_cluster(cluster: Cluster) -> None:
    node_types = cluster["available_node_types"].values()
    assert cluster["max_workers"] == sum(node_type.get("max_workers", 0) for node_type in node_types)


def test_every_container_has_shared_memory_for_the_object_store(cluster: Cluster) -> None:
    docker = cluster["docker"]
    options = {"head": docker["head_run_options"]}
    for name, node_type in cluster["available_node_types"].items():
        if name != cluster["head_node_type"]:
            options[name] = node_type["docker"]["worker_run_options"]
    assert not [name for name, values in options.items() if not any("--shm-size=" in value for value in values)]


def test_objects_spill_to_a_disk_of_the_machine(cluster: Cluster) -> None:
    assert all("--object-spilling-directory=/mnt/spill" in command for command in starts(cluster))
    assert "-v /mnt/spill:/mnt/spill" in cluster["docker"]["run_options"]


def test_the_folders_of_gpu_recipes_are_mounted_in_all_containers(cluster: Cluster, root: Path) -> None:
    recipes = (root / "jobs/recipes").rglob("*.yaml")
    run_dirs = [yaml.safe_load(recipe.read_text(encoding="utf-8")).get("run_dir", "") for recipe in recipes]
    shared = {"/".join(run_dir.split("/")[:3]) for run_dir in run_dirs if run_dir.startswith("/")}
    assert shared == {"/mnt/distilray"}
    assert "-v /mnt/distilray:/mnt/distilray" in cluster["docker"]["run_options"]


def test_the_gpu_container_gets_its_gpus_without_runtime_detection(cluster: Cluster) -> None:
    docker = cluster["available_node_types"]["gpu8"]["docker"]
    assert "--gpus all" in docker["worker_run_options"]
    assert cluster["docker"]["disable_automatic_runtime_detection"] is True


def test_recipes_can_use_the_hub(cluster: Cluster, root: Path) -> None:
    # Only `hub:` references in recipes access the hub, so that no shipped file needs to disable it.
    job = yaml.safe_load((root / "jobs/runtime_env.yaml").read_text(encoding="utf-8"))["env_vars"]
    manifests = [(root / name).read_text(encoding="utf-8") for name in ("jobs/rayjob.yaml", "serve/rayservice.yaml")]
    assert not [text for text in (str(cluster), str(job), *manifests) if "HF_HUB_OFFLINE" in text]


def test_data_tasks_are_restricted_to_data_machines(cluster: Cluster) -> None:
    (setting,) = [option for option in cluster["docker"]["run_options"] if DATA_LABELS in option]
    key, _, value = setting.partition("=")[2].partition("=")
    labels = {name: node_type.get("labels", {}) for name, node_type in cluster["available_node_types"].items()}
    assert [name for name, values in labels.items() if values.get(key) == value] == ["cpu_spot"]


def test_images_have_digests(cluster: Cluster) -> None:
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu8"]["docker"]["worker_image"]]
    assert all("@sha256:" in image for image in images)


def test_no_data_environment_or_history_is_synchronized(cluster: Cluster) -> None:
    assert {"**/.git", "**/.venv", "**/runs"} <= set(cluster["rsync_exclude"])


def test_values_that_the_user_must_set_have_placeholders(written: Cluster) -> None:
    for name, config in machines(written):
        for key in ("ImageId", "SecurityGroupIds", "IamInstanceProfile"):
            assert "REPLACE" in str(config[key]), f"{name}.{key}"


# cluster.local.yaml, for machines without cloud and containers.


@pytest.fixture(scope="module")
def own_machines(root: Path) -> Cluster:
    return prepare_config(yaml.safe_load((root / "cluster.local.yaml").read_text(encoding="utf-8")))


def test_ray_accepts_the_file_for_own_machines(own_machines: Cluster) -> None:
    validate_config(own_machines)


def test_own_machines_start_with_tokens_and_a_dashboard_on_loopback(own_machines: Cluster) -> None:
    head, worker = starts(own_machines)
    assert all("RAY_AUTH_MODE=token " in command for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head
    assert own_machines["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


def test_both_files_have_the_same_environment_for_serve(cluster: Cluster, own_machines: Cluster) -> None:
    options = [option.removeprefix("--env ") for option in cluster["docker"]["run_options"]]
    serve_options = [option for option in options if option.startswith("RAY_SERVE_")]
    assert serve_options
    assert not [
        (option, command) for option in serve_options for command in starts(own_machines) if option not in command
    ]


# IAM policies in the documentation


def policies(root: Path) -> list[list[dict[str, Any]]]:
    """Return the statements of the IAM policies in docs/operations.md."""
    text = (root / "docs/operations.md").read_text(encoding="utf-8")
    return [json.loads(block)["Statement"] for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def allowed(statements: list[dict[str, Any]]) -> set[str]:
    actions = [each["Action"] for each in statements]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


# API calls of `ray up`, `ray down` and the autoscaler, recorded with a simulated EC2.
PROVIDER = {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
BOOTSTRAP = {
    *("ec2:DescribeInstanceTypes", "ec2:DescribeKeyPairs", "ec2:CreateKeyPair"),
    *("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"),
}


@pytest.mark.parametrize(
    ("number", "calls", "role"), [(0, BOOTSTRAP | PROVIDER, "REPLACE_HEAD"), (1, PROVIDER, "REPLACE_WORKER")]
)
def test_a_documented_policy_allows_only_the_calls_of_ray(
    root: Path, cluster: Cluster, number: int, calls: set[str], role: str
) -> None:
    statements = policies(root)[number]
    assert allowed(statements) == calls | {"iam:PassRole"}
    [passed] = [each["Resource"] for each in statements if each["Action"] == "iam:PassRole"]
    assert passed == f"arn:aws:iam::REPLACE_ACCOUNT:role/{role}"
    [termination] = [each for each in statements if "ec2:TerminateInstances" in each["Action"]]
    tag = {"aws:ResourceTag/ray-cluster-name": cluster["cluster_name"]}
    assert termination["Condition"] == {"StringEquals": tag}
