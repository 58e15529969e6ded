import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilray.operations.doctor.check import CheckResult, run_checks
from distilray.operations.doctor.cluster_file import SHARED_FOLDER, cluster_file_checks

Cluster = dict[str, Any]
VALUES = {
    r"sha256:REPLACE\w*": "sha256:" + "0123456789abcdef" * 4,
    r"ami-REPLACE\w*": "ami-0123456789abcdef0",
    r"sg-REPLACE\w*": "sg-0123456789abcdef0",
    r"REPLACE_ACCOUNT": "123456789012",
    r"REPLACE_(HEAD|WORKER)\b": r"the-\1",
    r"registry\.example\.com": "registry.acme.io",
    r"REPLACE\w*": "filled-in",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder with a token and an ssh key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (".ray/auth_token", ".ssh/filled-in"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def filled(file: Path) -> Cluster:
    """Return a cluster file of the checkout with a value for every placeholder."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    for pattern, value in VALUES.items():
        text = re.sub(pattern, value, text)
    content: Cluster = yaml.safe_load(text)
    return content


@pytest.fixture
def cluster(root: Path) -> Cluster:
    return filled(root / "cluster.yaml")


def checks_of(cluster: Cluster, folder: Path) -> dict[str, CheckResult]:
    (folder / "filled.yaml").write_text(yaml.safe_dump(cluster))
    return {check.name: check for check in run_checks(cluster_file_checks(str(folder / "filled.yaml")))}


def not_ok(checks: dict[str, CheckResult]) -> dict[str, str]:
    return {name: check.status for name, check in checks.items() if check.status != "ok"}


def test_the_shipped_file_passes_once_it_is_filled_in(cluster: Cluster, tmp_path: Path) -> None:
    assert not_ok(checks_of(cluster, tmp_path)) == {}


def test_the_recipes_for_a_cluster_write_to_the_folder_that_is_checked(root: Path) -> None:
    recipes = [yaml.safe_load(file.read_text()) for file in (root / "jobs/recipes").glob("*/card.yaml")]
    folders = [recipe["run_dir"] for recipe in recipes if recipe["run_dir"].startswith("/")]
    assert folders
    assert all(folder.startswith(f"{SHARED_FOLDER}/") for folder in folders)


def options(cluster: Cluster, change: Callable[[str], str | None]) -> None:
    """Change every option of `docker run`; remove those that become None."""
    changed = map(change, cluster["docker"]["run_options"])
    cluster["docker"]["run_options"] = [option for option in changed if option is not None]


def without_option(cluster: Cluster, text: str) -> None:
    options(cluster, lambda option: None if text in option else option)


def start(cluster: Cluster, old: str, new: str) -> None:
    for role in ("head", "worker"):
        commands = cluster[f"{role}_start_ray_commands"]
        cluster[f"{role}_start_ray_commands"] = [command.replace(old, new) for command in commands]


def node(cluster: Cluster, name: str) -> dict[str, Any]:
    config: dict[str, Any] = cluster["available_node_types"][name]["node_config"]
    return config


FAULTS: list[tuple[str, str, Callable[[Cluster], Any]]] = [
    ("placeholders", "REPLACE_REGION in provider.region", lambda c: c["provider"].update(region="REPLACE_REGION")),
    ("schema", "setup_comands", lambda c: c.update(setup_comands=[])),
    (
        "images",
        "head: image registry.acme.io/a:latest",
        lambda c: c["docker"].update(image="registry.acme.io/a:latest"),
    ),
    ("images", "gpu8: ", lambda c: c["available_node_types"]["gpu8"]["docker"].update(worker_image="a@sha256:0123")),
    ("shared folder", "head: ", lambda c: without_option(c, SHARED_FOLDER)),
    ("shared folder", "cpu_spot: ", lambda c: options(c, lambda o: f"{o}:ro" if SHARED_FOLDER in o else o)),
    (
        "shared folder",
        "initialization_commands of gpu8",
        lambda c: c["available_node_types"]["gpu8"].update(initialization_commands=["sudo mkdir -p /mnt/spill"]),
    ),
    ("shared folder", "head: no command mounts", lambda c: c.update(initialization_commands=["mkdir -p /mnt/spill"])),
    ("spill folder", "gpu8: /mnt/spill is not mounted", lambda c: without_option(c, "/mnt/spill")),
    ("gpus", "gpu8: ", lambda c: c["available_node_types"]["gpu8"]["docker"].update(worker_run_options=[])),
    ("profiles", "head: no IamInstanceProfile", lambda c: node(c, "head").pop("IamInstanceProfile")),
    (
        "profiles",
        "gpu8: ",
        lambda c: node(c, "gpu8").update(IamInstanceProfile={"Arn": "arn:aws:iam::123456789012:role/worker"}),
    ),
    ("profiles", "cpu_spot: no", lambda c: node(c, "cpu_spot").update(IamInstanceProfile="arn:aws:iam::1:role/a")),
    ("security group", "head: no SecurityGroupIds", lambda c: node(c, "head").pop("SecurityGroupIds")),
    ("security group", "default is not an ID", lambda c: node(c, "gpu8").update(SecurityGroupIds=["default"])),
    ("machine image", "cpu_spot: no ImageId", lambda c: node(c, "cpu_spot").pop("ImageId")),
    ("token", "no token", lambda c: c.update(file_mounts={})),
    ("start", "0.0.0.0", lambda c: start(c, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")),
    ("start", "--autoscaling-config", lambda c: start(c, "--autoscaling-config=~/ray_bootstrap_config.yaml", "")),
    ("start", "worker_start_ray_commands: no `ray start`", lambda c: c.update(worker_start_ray_commands=["true"])),
    ("ssh key", "/none does not exist", lambda c: c["auth"].update(ssh_private_key="/none")),
]


@pytest.mark.parametrize(("name", "words", "change"), FAULTS, ids=[f"{name}: {words}" for name, words, _ in FAULTS])
def test_a_fault_fails_its_check_and_no_other(
    cluster: Cluster, tmp_path: Path, name: str, words: str, change: Callable[[Cluster], Any]
) -> None:
    change(cluster)
    checks = checks_of(cluster, tmp_path)
    assert not_ok(checks) == {name: "fail"}
    assert words in checks[name].message + checks[name].fix
    assert checks[name].fix


def test_a_start_without_the_token_mode_fails_unless_the_container_sets_it(cluster: Cluster, tmp_path: Path) -> None:
    start(cluster, "RAY_AUTH_MODE=token", "")
    assert not_ok(checks_of(cluster, tmp_path)) == {"start": "warn"}
    without_option(cluster, "RAY_AUTH_MODE")
    assert not_ok(checks_of(cluster, tmp_path)) == {"start": "fail"}


@pytest.mark.parametrize("option", ["--volume /data:/mnt", "--mount type=bind,source=/mnt,target=/mnt", "-v=/mnt:/mnt"])
def test_other_ways_to_mount_the_folders_are_known(cluster: Cluster, tmp_path: Path, option: str) -> None:
    options(cluster, lambda old: None if old.startswith("-v ") else old)
    cluster["docker"]["run_options"].append(option)
    folder = option.removeprefix("--volume ").partition(":")[0] if "data" in option else "/mnt"
    commands = [f"sudo mkdir -p {folder}/spill && sudo mount -t nfs4 10.0.0.1:/ {folder}/distilray"]
    cluster["initialization_commands"] = commands
    cluster["available_node_types"]["gpu8"]["initialization_commands"] = commands
    assert not_ok(checks_of(cluster, tmp_path)) == {}


@pytest.mark.parametrize("option", [None, 8265], ids=["empty", "number"])
def test_a_docker_option_that_is_not_a_string_affects_no_other_check(
    cluster: Cluster, tmp_path: Path, option: object
) -> None:
    cluster["docker"]["run_options"].append(option)
    assert not_ok(checks_of(cluster, tmp_path)).keys() <= {"schema"}


def test_a_token_that_does_not_exist_yet_is_a_warning(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / ".ray/auth_token").unlink()
    assert not_ok(checks_of(cluster, tmp_path)) == {"token": "warn"}


def test_images_and_profiles_of_local_machines_are_not_checked(root: Path, home: Path) -> None:
    checks = checks_of(filled(root / "cluster.local.yaml"), home)
    assert not_ok(checks) == {}
    assert set(checks) == {"placeholders", "schema", "start", "token", "ssh key"}


def test_local_workers_that_start_without_a_token_fail(root: Path, home: Path) -> None:
    cluster = filled(root / "cluster.local.yaml")
    cluster["worker_start_ray_commands"] = ["ray start --address=$RAY_HEAD_IP:6379"]
    assert not_ok(checks_of(cluster, home)) == {"start": "fail"}


def test_an_ssh_key_that_others_can_read_fails(root: Path, home: Path) -> None:
    (home / ".ssh/filled-in").chmod(0o644)
    assert not_ok(checks_of(filled(root / "cluster.local.yaml"), home)) == {"ssh key": "fail"}
