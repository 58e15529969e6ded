import copy
import functools
import operator
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilray.errors import InputError
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


@functools.cache
def filled(file: Path) -> Cluster:
    """Return a cluster file of the checkout with a value for every placeholder. Parsing it takes tenths of a second."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
    for pattern, value in VALUES.items():
        text = re.sub(pattern, value, text)
    content: Cluster = yaml.safe_load(text)
    return content


@pytest.fixture
def cluster(root: Path) -> Cluster:
    return copy.deepcopy(filled(root / "cluster.yaml"))


@pytest.fixture
def local_cluster(root: Path) -> Cluster:
    return copy.deepcopy(filled(root / "cluster.local.yaml"))


def checks_of(cluster: Cluster, folder: Path) -> dict[str, CheckResult]:
    (folder / "filled.yaml").write_text(yaml.safe_dump(cluster))
    return {check.name: check for check in run_checks(cluster_file_checks(str(folder / "filled.yaml")))}


def problems(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Return the status of all checks that are not ok."""
    return {name: check.status for name, check in checks_of(cluster, folder).items() if check.status != "ok"}


def change(cluster: Cluster, path: str, value: object) -> None:
    """Set the value at a dotted path; None removes it, and a pair (old, new) replaces text in all items of a list."""
    *parents, key = path.split(".")
    section = functools.reduce(operator.getitem, parents, cluster)
    if value is None:
        del section[key]
    elif isinstance(value, tuple):
        changed = [text.replace(*value) for text in section[key]]
        assert changed != section[key]
        section[key] = changed
    else:
        section[key] = value


def test_the_shipped_files_pass_once_they_are_filled_in(cluster: Cluster, local_cluster: Cluster, home: Path) -> None:
    assert problems(cluster, home) == {}
    assert problems(local_cluster, home) == {}
    everywhere = {"placeholders", "schema", "start", "token", "ssh key"}
    in_the_cloud = {"images", "shared folder", "spill folder", "gpus", "machine image", "profiles", "security group"}
    assert set(checks_of(cluster, home)) == everywhere | in_the_cloud
    assert set(checks_of(local_cluster, home)) == everywhere


def test_the_recipes_for_a_cluster_write_to_the_folder_that_is_checked(root: Path) -> None:
    run_dirs = [
        str(yaml.safe_load(file.read_text()).get("run_dir")) for file in (root / "jobs/recipes").rglob("*.yaml")
    ]
    assert {"/".join(run_dir.split("/")[:3]) for run_dir in run_dirs if run_dir.startswith("/")} == {SHARED_FOLDER}


GPU8, HEAD, SPOT = (f"available_node_types.{name}" for name in ("gpu8", "head", "cpu_spot"))
PROFILE, GROUPS = "node_config.IamInstanceProfile", "node_config.SecurityGroupIds"
MKDIR_SPILL = ["sudo mkdir -p /mnt/spill"]
FILLED_IMAGE = "registry.acme.io/a@sha256:" + "0123456789abcdef" * 4
HEAD_START, WORKER_START = "head_start_ray_commands", "worker_start_ray_commands"
OPTIONS = "docker.run_options"
HEAD_PROFILE = {"Arn": "arn:aws:iam::123456789012:instance-profile/the-HEAD"}

FAULTS: list[tuple[str, str, str, object]] = [
    ("placeholders", "REPLACE_REGION in provider.region", "provider.region", "REPLACE_REGION"),
    ("placeholders", "REPLACE_X in head_setup_commands[1]", "head_setup_commands", ["true", "REPLACE_X"]),
    ("schema", "setup_comands", "setup_comands", []),
    ("images", "head: image registry.acme.io/a:latest", "docker.image", "registry.acme.io/a:latest"),
    ("images", "gpu8: ", f"{GPU8}.docker.worker_image", "a@sha256:0123"),
    ("shared folder", "head: ", OPTIONS, (f"-v {SHARED_FOLDER}:{SHARED_FOLDER}", "")),
    ("shared folder", "cpu_spot: ", OPTIONS, (f":{SHARED_FOLDER}", f":{SHARED_FOLDER}:ro")),
    ("shared folder", "initialization_commands of gpu8", f"{GPU8}.initialization_commands", MKDIR_SPILL),
    ("shared folder", "head: no command mounts", "initialization_commands", MKDIR_SPILL),
    ("spill folder", "gpu8: /mnt/spill is not mounted", OPTIONS, ("-v /mnt/spill:/mnt/spill", "")),
    ("spill folder", "Docker would create /disk as root", OPTIONS, ("-v /mnt/spill:", "-v /disk:")),
    ("gpus", "gpu8: ", f"{GPU8}.docker.worker_run_options", []),
    ("profiles", "head: no IamInstanceProfile", f"{HEAD}.{PROFILE}", None),
    ("profiles", "gpu8: ", f"{GPU8}.{PROFILE}", {"Arn": "arn:aws:iam::123456789012:role/worker"}),
    ("profiles", "cpu_spot: no", f"{SPOT}.{PROFILE}", "arn:aws:iam::1:role/a"),
    ("security group", "head: no SecurityGroupIds", f"{HEAD}.{GROUPS}", None),
    ("security group", "default is not an ID", f"{GPU8}.{GROUPS}", ["default"]),
    ("machine image", "cpu_spot: no ImageId", f"{SPOT}.node_config.ImageId", None),
    ("token", "no token", "file_mounts", {}),
    ("start", "listens on 0.0.0.0", HEAD_START, ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")),
    ("start", "--autoscaling-config", HEAD_START, ("--autoscaling-config=~/ray_bootstrap_config.yaml", "")),
    ("start", "worker_start_ray_commands: no `ray start`", WORKER_START, ["true"]),
    ("ssh key", "/none does not exist", "auth.ssh_private_key", "/none"),
]
WARNINGS: list[tuple[str, str, str, object]] = [
    (
        "images",
        "head: image docker.example.org:5000/registry.acme.io/a is in",
        "docker.image",
        f"docker.example.org:5000/{FILLED_IMAGE}",
    ),
    ("profiles", "gpu8: can start machines", f"{GPU8}.{PROFILE}", HEAD_PROFILE),
    ("start", "worker_start_ray_commands: no RAY_AUTH_MODE=token", WORKER_START, ("RAY_AUTH_MODE=token", "")),
    ("token", "/none/auth_token does not exist yet", "file_mounts", {"/home/ray/auth_token": "/none/auth_token"}),
]


@pytest.mark.parametrize(
    ("status", "name", "words", "path", "value"),
    [
        pytest.param(status, *row, id=f"{row[0]}: {row[1]}")
        for status, rows in (("fail", FAULTS), ("warn", WARNINGS))
        for row in rows
    ],
)
def test_a_fault_is_reported_by_its_check_and_no_other(
    cluster: Cluster, home: Path, status: str, name: str, words: str, path: str, value: object
) -> None:
    change(cluster, path, value)
    assert problems(cluster, home) == {name: status}
    check = checks_of(cluster, home)[name]
    assert words in check.message + check.fix
    assert check.fix


def test_a_start_without_the_token_mode_fails_if_the_container_does_not_set_it(cluster: Cluster, home: Path) -> None:
    change(cluster, HEAD_START, ("RAY_AUTH_MODE=token", ""))
    change(cluster, OPTIONS, ("--env RAY_AUTH_MODE=token", ""))
    assert problems(cluster, home) == {"start": "fail"}


@pytest.mark.parametrize(
    ("option", "folder"),
    [("--volume /data:/mnt", "/data"), ("--mount type=bind,source=/mnt,target=/mnt", "/mnt"), ("-v=/mnt:/mnt", "/mnt")],
)
def test_other_ways_to_mount_the_folders_are_recognized(cluster: Cluster, home: Path, option: str, folder: str) -> None:
    others = [option for option in cluster["docker"]["run_options"] if not option.startswith("-v ")]
    change(cluster, OPTIONS, [*others, option])
    commands = [f"sudo mkdir -p {folder}/spill && sudo mount -t nfs4 10.0.0.1:/ {folder}/distilray"]
    change(cluster, "initialization_commands", commands)
    change(cluster, f"{GPU8}.initialization_commands", commands)
    assert problems(cluster, home) == {}


@pytest.mark.parametrize("option", [None, 8265], ids=["empty", "number"])
def test_a_docker_option_that_is_not_a_string_affects_no_other_check(
    cluster: Cluster, home: Path, option: object
) -> None:
    cluster["docker"]["run_options"].append(option)
    assert problems(cluster, home).keys() <= {"schema"}


def test_local_workers_that_start_without_a_token_fail(local_cluster: Cluster, home: Path) -> None:
    change(local_cluster, WORKER_START, ["ray start --address=$RAY_HEAD_IP:6379"])
    assert problems(local_cluster, home) == {"start": "fail"}


def test_an_ssh_key_that_others_can_read_fails(local_cluster: Cluster, home: Path) -> None:
    (home / ".ssh/filled-in").chmod(0o640)
    assert problems(local_cluster, home) == {"ssh key": "fail"}


@pytest.mark.parametrize(
    ("text", "words"), [(None, "No such file"), ("a: [", "not YAML"), ("- a", "no 'key: value' lines")]
)
def test_a_file_that_is_not_a_cluster_file_is_refused(home: Path, text: str | None, words: str) -> None:
    if text is not None:
        (home / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"--cluster .*x.yaml: .*{words}"):
        cluster_file_checks(str(home / "x.yaml"))
