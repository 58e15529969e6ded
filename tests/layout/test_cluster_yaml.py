"""cluster.yaml is one that Ray takes, and keeps none of Ray's unsafe AWS defaults."""

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
    """The file as it stands."""
    return yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cluster(written: Cluster) -> Cluster:
    """The file with Ray's defaults filled in, as `ray up` sees it."""
    return prepare_config(deepcopy(written))


@pytest.fixture(scope="module")
def defaults() -> Cluster:
    """Ray's defaults for AWS."""
    return yaml.safe_load((Path(ray.autoscaler.aws.__file__).parent / "defaults.yaml").read_text(encoding="utf-8"))


def machines(cluster: Cluster) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node_type in cluster["available_node_types"].items():
        yield name, node_type["node_config"]


def starts(cluster: Cluster) -> list[str]:
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_the_file(cluster: Cluster) -> None:
    validate_config(cluster)


def test_ray_would_refuse_a_misspelt_key(cluster: Cluster) -> None:
    with pytest.raises(ValidationError):
        validate_config({**cluster, "setup_comands": []})


def test_no_command_of_the_defaults_is_left(cluster: Cluster, defaults: Cluster) -> None:
    stages = [stage for stage in defaults if stage.endswith("_commands")]
    inherited = [line for stage in stages for line in cluster[stage] if line in defaults[stage] and "start" in line]
    installing = [line for stage in stages for line in cluster[stage] if "install" in line or "wheel" in line]
    assert "ray-3.0.0.dev0" in str(defaults["setup_commands"])  # the nightly build that this test is about
    assert not inherited + installing


def test_the_dashboard_answers_on_loopback_only(cluster: Cluster, defaults: Cluster) -> None:
    assert "--dashboard-host=0.0.0.0" in str(defaults["head_start_ray_commands"])
    head = [command for command in starts(cluster) if "--head" in command]
    assert all("--dashboard-host=127.0.0.1" in command and "0.0.0.0" not in command for command in head)
    assert len(head) == 1


def test_every_start_of_ray_asks_for_tokens(cluster: Cluster) -> None:
    assert len(starts(cluster)) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts(cluster))
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]


def test_the_token_is_carried_as_a_file_and_stands_nowhere_in_the_text(cluster: Cluster, root: Path) -> None:
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN=" not in (root / "cluster.yaml").read_text(encoding="utf-8")


def test_machines_are_terminated_and_not_kept(cluster: Cluster, defaults: Cluster) -> None:
    assert defaults["provider"]["cache_stopped_nodes"] is True
    assert cluster["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("key", ["ImageId", "SecurityGroupIds", "IamInstanceProfile"])
def test_every_machine_names_what_ray_would_choose_badly(cluster: Cluster, key: str) -> None:
    # Left out, Ray takes an Ubuntu 18.04 image, opens port 22 to the world, and gives full access to EC2 and S3.
    assert not [name for name, config in machines(cluster) if not config.get(key)]


def test_every_machine_demands_a_session_for_its_metadata(cluster: Cluster) -> None:
    assert not [name for name, config in machines(cluster) if config["MetadataOptions"]["HttpTokens"] != "required"]


def test_every_disk_is_encrypted(cluster: Cluster) -> None:
    for name, config in machines(cluster):
        disks = [mapping["Ebs"] for mapping in config["BlockDeviceMappings"]]
        assert disks, name
        assert all(disk["Encrypted"] and disk["VolumeType"] == "gp3" for disk in disks), name


def test_no_work_is_placed_on_the_head(cluster: Cluster) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_training_has_one_machine_of_eight_gpus_on_demand(cluster: Cluster) -> None:
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
    assert not [name for name, given in options.items() if not any("--shm-size=" in option for option in given)]


def test_what_spills_goes_to_a_disk_of_the_machine(cluster: Cluster) -> None:
    assert all("--object-spilling-directory=/mnt/spill" in command for command in starts(cluster))
    assert "-v /mnt/spill:/mnt/spill" in cluster["docker"]["run_options"]


def test_every_folder_of_a_gpu_recipe_is_in_every_container(cluster: Cluster, root: Path) -> None:
    recipes = (root / "jobs/recipes").rglob("*.yaml")
    run_dirs = [yaml.safe_load(recipe.read_text(encoding="utf-8")).get("run_dir", "") for recipe in recipes]
    shared = {"/".join(run_dir.split("/")[:3]) for run_dir in run_dirs if run_dir.startswith("/")}
    assert shared == {"/mnt/distilray"}
    assert "-v /mnt/distilray:/mnt/distilray" in cluster["docker"]["run_options"]


def test_the_container_of_the_gpu_machine_gets_its_gpus_without_a_look_at_the_engine(cluster: Cluster) -> None:
    docker = cluster["available_node_types"]["gpu8"]["docker"]
    assert "--gpus all" in docker["worker_run_options"]
    assert cluster["docker"]["disable_automatic_runtime_detection"] is True


def test_recipes_that_name_the_hub_may_use_it(cluster: Cluster, root: Path) -> None:
    # The hub is asked only for what a recipe names with `hub:`, so nothing that we ship forbids it.
    job = yaml.safe_load((root / "jobs/runtime_env.yaml").read_text(encoding="utf-8"))["env_vars"]
    manifests = [(root / name).read_text(encoding="utf-8") for name in ("jobs/rayjob.yaml", "serve/rayservice.yaml")]
    assert not [text for text in (str(cluster), str(job), *manifests) if "HF_HUB_OFFLINE" in text]


def test_data_work_is_told_to_stay_off_the_gpus(cluster: Cluster) -> None:
    (setting,) = [option for option in cluster["docker"]["run_options"] if DATA_LABELS in option]
    key, _, value = setting.partition("=")[2].partition("=")
    labels = {name: node_type.get("labels", {}) for name, node_type in cluster["available_node_types"].items()}
    assert [name for name, given in labels.items() if given.get(key) == value] == ["cpu_spot"]


def test_images_are_named_by_digest(cluster: Cluster) -> None:
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu8"]["docker"]["worker_image"]]
    assert all("@sha256:" in image for image in images)


def test_no_file_mount_or_sync_carries_data_environment_or_history(cluster: Cluster) -> None:
    assert {"**/.git", "**/.venv", "**/runs"} <= set(cluster["rsync_exclude"])


def test_what_the_user_must_fill_in_is_marked(written: Cluster) -> None:
    for name, config in machines(written):
        for key in ("ImageId", "SecurityGroupIds", "IamInstanceProfile"):
            assert "REPLACE" in str(config[key]), f"{name}.{key}"


# cluster.local.yaml: the same, where there is neither a cloud nor a container.


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


def test_both_files_start_serve_alike(cluster: Cluster, own_machines: Cluster) -> None:
    options = [option.removeprefix("--env ") for option in cluster["docker"]["run_options"]]
    given = [option for option in options if option.startswith("RAY_SERVE_")]
    assert given
    assert not [(option, command) for option in given for command in starts(own_machines) if option not in command]


# What the documentation prescribes for the account


def policies(root: Path) -> list[list[dict[str, Any]]]:
    """Statements of the IAM policies in docs/operations.md."""
    text = (root / "docs/operations.md").read_text(encoding="utf-8")
    return [json.loads(block)["Statement"] for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def allowed(statements: list[dict[str, Any]]) -> set[str]:
    actions = [each["Action"] for each in statements]
    return {action for each in actions for action in ([each] if isinstance(each, str) else each)}


# The calls of `ray up` and `ray down`, and of the autoscaler, recorded on a simulated EC2.
PROVIDER = {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"}
BOOTSTRAP = {
    *("ec2:DescribeInstanceTypes", "ec2:DescribeKeyPairs", "ec2:CreateKeyPair"),
    *("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"),
}


@pytest.mark.parametrize(
    ("number", "calls", "role"), [(0, BOOTSTRAP | PROVIDER, "REPLACE_HEAD"), (1, PROVIDER, "REPLACE_WORKER")]
)
def test_a_documented_policy_allows_what_ray_calls_and_no_more(
    root: Path, cluster: Cluster, number: int, calls: set[str], role: str
) -> None:
    statements = policies(root)[number]
    assert allowed(statements) == calls | {"iam:PassRole"}
    [passed] = [each["Resource"] for each in statements if each["Action"] == "iam:PassRole"]
    assert passed == f"arn:aws:iam::REPLACE_ACCOUNT:role/{role}"
    [ending] = [each for each in statements if "ec2:TerminateInstances" in each["Action"]]
    tag = {"aws:ResourceTag/ray-cluster-name": cluster["cluster_name"]}
    assert ending["Condition"] == {"StringEquals": tag}
