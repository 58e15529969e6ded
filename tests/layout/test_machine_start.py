"""Commands that cluster.yaml runs on a new machine, executed in bash like Ray, with stubs for system commands."""

import os
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.command_runner import _with_interactive

CLUSTER: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text(encoding="utf-8"))
GPU8 = CLUSTER["available_node_types"]["gpu8"]
MOUNT_SHARED, MOUNT_SPILL = CLUSTER["initialization_commands"]
CHECK_GPUS = GPU8["initialization_commands"][-1]
EFS = "-t nfs4 -o nfsvers=4.1,hard,noresvport fs-0123456789abcdef0.efs.us-west-2.amazonaws.com:/"
MOUNT_EFS = MOUNT_SHARED.replace("REPLACE_SHARED_FILE_SYSTEM", EFS)

# Every stub logs its call. `sudo` runs its arguments, `mount` and `findmnt` share a list of mount points.
STUBS = {
    "sudo": '"$@"',
    "systemctl": "exit 1",
    "mount": 'echo "${@: -1}" >> "$STATE/mounted"',
    "findmnt": 'grep -qx "$1" "$STATE/mounted"',
    **dict.fromkeys(("mkdir", "chown", "setpriv", "mdadm", "mkfs.xfs", "lsblk", "docker"), ""),
}


def lsblk(*trees: str) -> dict[str, str]:
    """Return a stub that lists instance disks, each as rows of NAME,FSTYPE,MOUNTPOINT that start with the disk."""
    disks = "\n".join(f"{tree.split(',')[0]} Amazon EC2 NVMe Instance Storage" for tree in trees)
    cases = "\n".join(
        f"*MOUNTPOINT*{tree.split(',')[0]}) cut -d, -f3 <<< '{tree}' ;;\n"
        f"*FSTYPE*{tree.split(',')[0]}) cut -d, -f1,2 --output-delimiter=' ' <<< '{tree}' ;;"
        for tree in trees
    )
    root = "/dev/nvme0n1 Amazon Elastic Block Store"
    return {"lsblk": f"case \"$*\" in\n*MODEL*) echo '{root}\n{disks}' ;;\n{cases}\nesac"}


def docker_with(gpus: int) -> dict[str, str]:
    """Return a stub of `docker` whose containers see a number of GPUs; 0 simulates a missing NVIDIA toolkit."""
    lines = "\n".join(f"GPU {number}: NVIDIA A100-SXM4-40GB (UUID: GPU-{number})" for number in range(gpus))
    missing = "{ echo 'could not select device driver with capabilities: [[gpu]]' >&2; exit 125; }"
    return {"docker": f"test $1 = pull || echo '{lines}'" if gpus else f"test $1 = pull || {missing}"}


def raid(*disks: str) -> str:
    # --force also allows a single disk.
    return f"mdadm --create /dev/md0 --run --force --level=0 --raid-devices={len(disks)} {' '.join(disks)}"


@dataclass(frozen=True)
class Case:
    """A command on a machine, and its expected results.

    Attributes:
        stubs: replaced stubs.
        mounted: a mount point that exists already.
        calls: exact calls by stub; other stubs may be called, too.
        output: parts of the output.
    """

    command: str
    stubs: dict[str, str] = field(default_factory=dict)
    mounted: str = ""
    succeeds: bool = True
    calls: dict[str, list[str]] = field(default_factory=dict)
    output: tuple[str, ...] = ()


OWN_SHARED, OWN_SPILL = ["chown --from=root 1000:1000 /mnt/distilray"], ["chown 1000:1000 /mnt/spill"]
NVME1, NVME2, VOLUME = "/dev/nvme1n1", "/dev/nvme2n1", "\n/dev/mapper/vg-lv,ext4,"
UNCHANGED = Case(MOUNT_SPILL, calls={"mdadm": [], "mount": []}, output=("spills to the root disk",))
CASES = {
    "the shared file system is mounted for the user of the containers": Case(
        MOUNT_EFS, calls={"mount": [f"mount {EFS} /mnt/distilray"], "chown": OWN_SHARED}
    ),
    "a mounted shared file system is not mounted again": Case(
        MOUNT_EFS, mounted="/mnt/distilray", calls={"mount": [], "chown": OWN_SHARED}
    ),
    "a failed mount names the file system and the required package": Case(
        MOUNT_EFS,
        {"mount": "echo 'mount: bad option' >&2; exit 32"},
        succeeds=False,
        calls={"chown": []},
        output=(f"cannot mount the shared file system ({EFS}) at /mnt/distilray", "nfs-common"),
    ),
    "a shared file system that is read-only for user 1000 fails the start": Case(
        MOUNT_EFS,
        {"chown": "exit 1", "setpriv": "exit 1"},  # as on NFS with root_squash
        succeeds=False,
        output=("user 1000", "/mnt/distilray"),
    ),
    **{
        f"{len(disks)} unused instance disks become the spill folder": Case(
            MOUNT_SPILL,
            lsblk(*(f"{disk},," for disk in disks)),
            calls={"mdadm": [raid(*disks)], "mount": ["mount /dev/md0 /mnt/spill"], "chown": OWN_SPILL},
        )
        for disks in ((NVME1,), (NVME1, NVME2))
    },
    "instance disks mounted by the machine image are used": Case(
        MOUNT_SPILL,
        lsblk(*(f"{disk},LVM2_member,{VOLUME}/opt/dlami/nvme" for disk in (NVME1, NVME2))),
        calls={"mdadm": [], "mount": ["mount --bind /opt/dlami/nvme/spill /mnt/spill"], "chown": OWN_SPILL},
    ),
    **{
        f"an instance disk with {use} is not modified": replace(UNCHANGED, stubs=lsblk(NVME1 + rows))
        for use, rows in {"a volume": f",LVM2_member,{VOLUME}", "swap": ",swap,[SWAP]", "files": ",xfs,"}.items()
    },
    "without instance disks the root disk is used with a notice": Case(
        MOUNT_SPILL,
        lsblk(),
        calls={**UNCHANGED.calls, "chown": OWN_SPILL},
        output=("no instance disk is available: Ray spills to the root disk",),
    ),
    "a failure to combine disks does not fail the start": Case(
        MOUNT_SPILL, {**lsblk(f"{NVME1},,"), "mdadm": "exit 1"}, output=UNCHANGED.output
    ),
    "a mounted spill folder is left unchanged": Case(
        MOUNT_SPILL, lsblk(f"{NVME1},,"), mounted="/mnt/spill", calls={"lsblk": [], "mdadm": [], "mount": []}
    ),
    "containers that see 8 GPUs pass the check": Case(
        CHECK_GPUS,
        docker_with(8),
        calls={
            "docker": [
                f"docker pull --quiet {GPU8['docker']['worker_image']}",
                f"docker run --rm --gpus all {GPU8['docker']['worker_image']} nvidia-smi -L",
            ]
        },
    ),
    **{
        f"containers that see {gpus} GPUs fail with the name of the toolkit": Case(
            CHECK_GPUS,
            docker_with(gpus),
            succeeds=False,
            output=(f"containers see {gpus} of 8 GPUs", "NVIDIA Container Toolkit: package nvidia-container-toolkit"),
        )
        for gpus in (0, 7)
    },
}


def run(folder: Path, case: Case) -> tuple[bool, str, list[str]]:
    """Run a command in a home folder with stubs; return whether it succeeded, its output and the calls of stubs."""
    (folder / "stubs").mkdir()
    (folder / "mounted").write_text(f"{case.mounted}\n")
    (folder / "calls").touch()
    # A login shell resets PATH, and Ray sources this file afterwards.
    (folder / ".bashrc").write_text(f'export STATE="{folder}" PATH="{folder}/stubs:/usr/bin:/bin"\n')
    for name, body in {**STUBS, **case.stubs}.items():
        file = folder / "stubs" / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{body}\n')
        file.chmod(0o755)
    process = subprocess.run(
        ["bash", "-c", " ".join(_with_interactive(case.command))],  # command that Ray passes to the shell over ssh
        env={"HOME": str(folder), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process.returncode == 0, process.stdout, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("name", CASES)
def test_on_a_new_machine(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    succeeded, output, calls = run(tmp_path, case)
    assert succeeded is case.succeeds, output
    assert {stub: [call for call in calls if call.split()[0] == stub] for stub in case.calls} == case.calls
    assert not [part for part in case.output if part not in output]


def test_a_failed_pull_is_not_attributed_to_the_toolkit(tmp_path: Path) -> None:
    case = Case(CHECK_GPUS, {"docker": "echo 'docker: no basic auth credentials' >&2; exit 1"})
    succeeded, output, _ = run(tmp_path, case)
    assert not succeeded
    assert "no basic auth credentials" in output
    assert "toolkit" not in output


def test_the_gpu_machine_runs_the_commands_of_all_machines_first() -> None:
    node_types = CLUSTER["available_node_types"]
    assert GPU8["initialization_commands"] == [MOUNT_SHARED, MOUNT_SPILL, CHECK_GPUS]
    assert [name for name in node_types if "initialization_commands" in node_types[name]] == ["gpu8"]


def test_the_shared_file_system_is_set_in_one_line(root: Path) -> None:
    lines = (root / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if "REPLACE_SHARED_FILE_SYSTEM" in line and not line.lstrip().startswith("#")]
    assert [line.strip() for line in values] == ['shared="REPLACE_SHARED_FILE_SYSTEM"']
