"""Commands that cluster.yaml runs on a new machine, executed in bash like Ray, with stubs for system commands."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.command_runner import _with_interactive

CLUSTER: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text(encoding="utf-8"))
GPU8 = CLUSTER["available_node_types"]["gpu8"]
MOUNT_SHARED, MOUNT_SPILL = CLUSTER["initialization_commands"]
CHECK_GPUS = GPU8["initialization_commands"][-1]

# Every stub logs its call. `sudo` runs its arguments, `mount` and `findmnt` share a list of mount points.
STUBS = {
    "sudo": '"$@"',
    "mkdir": "",
    "chown": "",
    "setpriv": "",
    "systemctl": "exit 1",
    "mdadm": "",
    "mkfs.xfs": "",
    "mount": 'echo "${@: -1}" >> "$STATE/mounted"',
    "findmnt": 'grep -qx "$1" "$STATE/mounted"',
    "lsblk": "",
    "docker": "",
}


@dataclass(frozen=True)
class Result:
    """Exit code, output and stub calls of a command."""

    code: int
    output: str
    calls: list[str]

    def called(self, command: str) -> list[str]:
        return [call for call in self.calls if call.split()[0] == command]


class Machine:
    """Home folder with stubs that precede the system commands on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "stubs").mkdir()
        (folder / "mounted").touch()
        # A login shell resets PATH, and Ray sources this file afterwards.
        (folder / ".bashrc").write_text(f'export STATE="{folder}" PATH="{folder}/stubs:/usr/bin:/bin"\n')
        for name, body in STUBS.items():
            self.stub(name, body)

    def stub(self, name: str, body: str) -> None:
        file = self.folder / "stubs" / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> "{self.folder}/calls"\n{body}\n')
        file.chmod(0o755)

    def mounted(self, path: str) -> None:
        (self.folder / "mounted").write_text(f"{path}\n")

    def disks(self, *trees: str) -> None:
        """Let `lsblk` list instance disks, each as rows of NAME,FSTYPE,MOUNTPOINT that start with the disk itself."""
        listing = "\n".join(f"{tree.split(',')[0]} Amazon EC2 NVMe Instance Storage" for tree in trees)
        cases = "\n".join(
            f"*MOUNTPOINT*{tree.split(',')[0]}) cut -d, -f3 <<< '{tree}' ;;\n"
            f"*FSTYPE*{tree.split(',')[0]}) cut -d, -f1,2 --output-delimiter=' ' <<< '{tree}' ;;"
            for tree in trees
        )
        root = "/dev/nvme0n1 Amazon Elastic Block Store"
        self.stub("lsblk", f"case \"$*\" in\n*MODEL*) echo '{root}\n{listing}' ;;\n{cases}\nesac")

    def run(self, command: str) -> Result:
        remote = " ".join(_with_interactive(command))  # command that Ray passes to the shell over ssh
        process = subprocess.run(
            ["bash", "-c", remote],
            env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        calls = self.folder / "calls"
        return Result(process.returncode, process.stdout, calls.read_text().splitlines() if calls.exists() else [])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Shared file system

EFS = "-t nfs4 -o nfsvers=4.1,hard,noresvport fs-0123456789abcdef0.efs.us-west-2.amazonaws.com:/"
MOUNT_EFS = MOUNT_SHARED.replace("REPLACE_SHARED_FILE_SYSTEM", EFS)


def test_the_shared_file_system_is_mounted_for_the_user_of_the_containers(machine: Machine) -> None:
    result = machine.run(MOUNT_EFS)
    assert result.code == 0, result.output
    assert result.called("mount") == [f"mount {EFS} /mnt/distilray"]
    assert result.called("chown") == ["chown --from=root 1000:1000 /mnt/distilray"]


def test_a_mounted_shared_file_system_is_not_mounted_again(machine: Machine) -> None:
    machine.mounted("/mnt/distilray")
    result = machine.run(MOUNT_EFS)
    assert result.code == 0, result.output
    assert not result.called("mount")


def test_a_failed_mount_names_the_file_system_and_the_required_package(machine: Machine) -> None:
    machine.stub("mount", "echo 'mount: bad option' >&2; exit 32")
    result = machine.run(MOUNT_EFS)
    assert result.code != 0
    assert f"cannot mount the shared file system ({EFS}) at /mnt/distilray" in result.output
    assert "nfs-common" in result.output
    assert not result.called("chown")


def test_a_shared_file_system_that_is_read_only_for_user_1000_fails_the_start(machine: Machine) -> None:
    machine.stub("chown", "exit 1")  # as on NFS with root_squash
    machine.stub("setpriv", "exit 1")
    result = machine.run(MOUNT_EFS)
    assert result.code != 0
    assert "user 1000" in result.output
    assert "/mnt/distilray" in result.output


# Spill folder


@pytest.mark.parametrize("disks", [("/dev/nvme1n1,,",), ("/dev/nvme1n1,,", "/dev/nvme2n1,,")])
def test_unused_instance_disks_become_the_spill_folder(machine: Machine, disks: tuple[str, ...]) -> None:
    machine.disks(*disks)
    result = machine.run(MOUNT_SPILL)
    names = " ".join(disk.split(",")[0] for disk in disks)
    [created] = result.called("mdadm")
    assert result.code == 0, result.output
    assert created.endswith(
        f"--force --level=0 --raid-devices={len(disks)} {names}"
    )  # --force also allows a single disk
    assert result.called("mount") == ["mount /dev/md0 /mnt/spill"]
    assert result.called("chown") == ["chown 1000:1000 /mnt/spill"]


def test_instance_disks_mounted_by_the_machine_image_are_used(machine: Machine) -> None:
    volume = "\n/dev/mapper/vg-lv,ext4,/opt/dlami/nvme"
    machine.disks(f"/dev/nvme1n1,LVM2_member,{volume}", f"/dev/nvme2n1,LVM2_member,{volume}")
    result = machine.run(MOUNT_SPILL)
    assert result.code == 0, result.output
    assert not result.called("mdadm")
    assert result.called("mount") == ["mount --bind /opt/dlami/nvme/spill /mnt/spill"]
    assert result.called("chown") == ["chown 1000:1000 /mnt/spill"]


@pytest.mark.parametrize(
    "tree", ["/dev/nvme1n1,LVM2_member,\n/dev/mapper/vg-lv,ext4,", "/dev/nvme1n1,swap,[SWAP]", "/dev/nvme1n1,xfs,"]
)
def test_instance_disks_in_use_are_not_modified(machine: Machine, tree: str) -> None:
    machine.disks(tree)
    result = machine.run(MOUNT_SPILL)
    assert result.code == 0, result.output
    assert not result.called("mdadm") + result.called("mount")
    assert "spills to the root disk" in result.output


def test_without_instance_disks_the_root_disk_is_used_with_a_notice(machine: Machine) -> None:
    machine.disks()
    result = machine.run(MOUNT_SPILL)
    assert result.code == 0, result.output
    assert "no instance disk is available: Ray spills to the root disk" in result.output
    assert result.called("chown") == ["chown 1000:1000 /mnt/spill"]


def test_a_failure_to_combine_disks_does_not_fail_the_start(machine: Machine) -> None:
    machine.disks("/dev/nvme1n1,,")
    machine.stub("mdadm", "exit 1")
    result = machine.run(MOUNT_SPILL)
    assert result.code == 0, result.output
    assert "spills to the root disk" in result.output


def test_a_mounted_spill_folder_is_kept(machine: Machine) -> None:
    machine.mounted("/mnt/spill")
    machine.disks("/dev/nvme1n1,,")
    result = machine.run(MOUNT_SPILL)
    assert result.code == 0, result.output
    assert not result.called("lsblk") + result.called("mdadm") + result.called("mount")


# GPUs


def docker(gpus: int) -> str:
    """Return a stub of `docker` whose containers see a number of GPUs; 0 simulates a missing NVIDIA toolkit."""
    if not gpus:
        return "test $1 = pull || { echo 'could not select device driver with capabilities: [[gpu]]' >&2; exit 125; }"
    lines = "\n".join(f"GPU {number}: NVIDIA A100-SXM4-40GB (UUID: GPU-{number})" for number in range(gpus))
    return f"test $1 = pull || echo '{lines}'"


def test_containers_that_see_8_gpus_pass_the_check(machine: Machine) -> None:
    machine.stub("docker", docker(8))
    result = machine.run(CHECK_GPUS)
    assert result.code == 0, result.output
    assert f"docker run --rm --gpus all {GPU8['docker']['worker_image']} nvidia-smi -L" in result.calls


@pytest.mark.parametrize("gpus", [0, 7])
def test_containers_that_see_fewer_gpus_fail_with_the_name_of_the_toolkit(machine: Machine, gpus: int) -> None:
    machine.stub("docker", docker(gpus))
    result = machine.run(CHECK_GPUS)
    assert result.code != 0
    assert f"containers see {gpus} of 8 GPUs" in result.output
    assert "NVIDIA Container Toolkit: package nvidia-container-toolkit" in result.output


def test_a_failed_pull_is_not_attributed_to_the_toolkit(machine: Machine) -> None:
    machine.stub("docker", "echo 'docker: no basic auth credentials' >&2; exit 1")
    result = machine.run(CHECK_GPUS)
    assert result.code != 0
    assert "no basic auth credentials" in result.output
    assert "toolkit" not in result.output


# Commands by machine


def test_the_gpu_machine_runs_the_commands_of_all_machines_first() -> None:
    assert GPU8["initialization_commands"] == [MOUNT_SHARED, MOUNT_SPILL, CHECK_GPUS]
    others = [
        name for name, node_type in CLUSTER["available_node_types"].items() if "initialization_commands" in node_type
    ]
    assert others == ["gpu8"]


def test_the_shared_file_system_is_set_in_one_line(root: Path) -> None:
    lines = (root / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if "REPLACE_SHARED_FILE_SYSTEM" in line and not line.lstrip().startswith("#")]
    assert [line.strip() for line in values] == ['shared="REPLACE_SHARED_FILE_SYSTEM"']
