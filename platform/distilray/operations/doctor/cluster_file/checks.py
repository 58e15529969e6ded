"""The checks of a cluster file, one for each aspect."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distilray.errors import InputError
from distilray.operations.doctor.check import Finding, Row, fail, not_checked, ok, together, warn
from distilray.operations.doctor.cluster_file.reading import Machine, machines_of, read_cluster_file, with_defaults

SHARED_FOLDER = "/mnt/distilray"  # that the recipes for a cluster write to
_PLACEHOLDER = re.compile(r"REPLACE\w*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_EXAMPLE_HOST = re.compile(r"^[^/]*\bexample\.(com|org|net)(:\d+)?/")
_AMI, _GROUP = re.compile(r"ami-\w+"), re.compile(r"sg-\w+")  # the placeholders too, which have a check of their own
_PROFILE_ARN = re.compile(r"arn:aws[\w-]*:iam::\w+:instance-profile/\S+")
_GPU_OPTION = re.compile(r"--gpus\b|--runtime[ =]nvidia\b|nvidia\.com/gpu")
_MOUNTS = r"(\bmount(?!point)|s3fs|fuse)[^;&|]*{}\b"  # a command that mounts something there
_TOKEN_MODE = "RAY_AUTH_MODE=token"  # noqa: S105 - the mode, not a token


def cluster_file_rows(file: str) -> list[Row]:
    """The checks of a cluster file, those that apply to its provider.

    Raises:
        InputError: the file is missing, is not YAML or holds no mapping.
    """
    try:
        written = read_cluster_file(file)
    except ImportError as error:
        finding = not_checked(error)
        return [Row("cluster file", lambda: finding)]
    made = [
        Row("placeholders", lambda: check_placeholders(written)),
        Row("schema", lambda: check_schema(written)),
    ]
    try:
        cluster = with_defaults(written)
    except (ImportError, InputError):
        return made  # the check of the schema says why
    machines = list(machines_of(cluster))
    checks: dict[str, Callable[[Sequence[Machine]], Finding]] = {}
    if cluster.get("docker"):
        checks |= {"images": check_images, "shared folder": check_shared_folder}
        checks |= {"spill folder": check_spill_folder, "gpus": check_gpus}
    if cluster["provider"]["type"] == "aws":
        checks |= {"machine image": check_machine_images, "profiles": check_profiles}
        checks |= {"security group": check_security_groups}
    return [
        *made,
        *(Row(name, functools.partial(check, machines)) for name, check in checks.items()),
        Row("start", lambda: check_start_commands(cluster)),
        Row("token", lambda: check_token(cluster.get("file_mounts") or {})),
        Row("ssh key", lambda: check_ssh_key(cluster.get("auth") or {})),
    ]


def check_placeholders(written: Mapping[str, Any]) -> Finding:
    """No value of the file is still to be replaced."""
    paths: dict[str, list[str]] = {}
    for path, text in _texts(written, ""):
        for marker in dict.fromkeys(_PLACEHOLDER.findall(text)):
            paths.setdefault(marker, []).append(path)
    if paths:
        found = "; ".join(f"{marker} in {', '.join(keys)}" for marker, keys in paths.items())
        return fail(f"placeholders are left: {found}", "fill them in, as the comments of the file say")
    return ok("no placeholder is left")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            inner_path = f"{path}.{key}".lstrip(".")
            yield inner_path, str(key)
            yield from _texts(inner, inner_path)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value


def check_schema(written: Mapping[str, Any]) -> Finding:
    """Ray accepts the file.

    Raises:
        InputError: it does not.
    """
    with_defaults(written)
    return ok("Ray accepts the file")


def check_images(machines: Sequence[Machine]) -> Finding:
    """Every container runs an image that is named by its digest."""
    findings = []
    for machine in machines:
        if not _DIGEST.search(machine.image):
            fix = "name it as IMAGE@sha256:... (docker buildx imagetools inspect IMAGE shows the digest)"
            findings.append(fail(f"{machine.name}: image {machine.image or 'missing'} has no digest", fix))
        elif _EXAMPLE_HOST.match(machine.image):
            found = f"{machine.name}: image {machine.image.partition('@')[0]} is in a registry that does not exist"
            findings.append(warn(found, "name your registry"))
    return together(findings, "all images are named by digest")


def check_shared_folder(machines: Sequence[Machine]) -> Finding:
    """Every container writes its runs to the file system that all machines mount."""
    findings = []
    for machine in machines:
        host = machine.host_folder(SHARED_FOLDER)
        if host is None:
            fix = f"docker.run_options: -v {SHARED_FOLDER}:{SHARED_FOLDER}"
            findings.append(fail(f"{machine.name}: {SHARED_FOLDER} is not mounted into its container", fix))
        elif not re.search(_MOUNTS.format(re.escape(host)), "\n".join(machine.initialization)):
            fix = f"mount the file system in initialization_commands of {machine.name}, which replace the cluster's"
            if machine.is_head:
                fix = "mount the file system in initialization_commands"
            findings.append(fail(f"{machine.name}: no command mounts the shared file system at {host}", fix))
    return together(findings, f"{SHARED_FOLDER} is mounted on all machines and into all containers")


def check_spill_folder(machines: Sequence[Machine]) -> Finding:
    """Spilled objects go to a disk of the machine, not into the container."""
    findings = []
    for machine in machines:
        for folder in re.findall(r"--object-spilling-directory[ =](/[^\s;]+)", " ".join(machine.start)):
            host = machine.host_folder(folder)
            if host is None:
                found = f"{machine.name}: {folder} is not mounted, so spilled objects fill the disk of the container"
                findings.append(fail(found, f"docker.run_options: -v {folder}:{folder}"))
            elif host not in " ".join(machine.initialization):
                found = f"{machine.name}: Docker creates {host} as root, and Ray cannot write to it"
                findings.append(
                    fail(found, "create it in initialization_commands and chown it to the user of the image")
                )
    return together(findings, "Ray spills to folders of the machines")


def check_gpus(machines: Sequence[Machine]) -> Finding:
    """Containers of machines with GPUs get them, or do not start."""
    blind = [each.name for each in machines if each.has_gpus and not _GPU_OPTION.search(each.run_options)]
    if blind:
        found = (
            f"{', '.join(blind)}: Ray registers GPUs, but the container gets them only if Docker's default is NVIDIA"
        )
        return fail(found, "add --gpus all to its docker.worker_run_options")
    return ok(f"GPUs are passed to {', '.join(each.name for each in machines if each.has_gpus) or 'no node type'}")


def check_profiles(machines: Sequence[Machine]) -> Finding:
    """Every machine has an instance profile, and only the head may start machines."""
    findings, of_head = [], [each.node_config.get("IamInstanceProfile") for each in machines if each.is_head]
    for machine in machines:
        profile = machine.node_config.get("IamInstanceProfile")
        if not isinstance(profile, dict) or not (profile.get("Arn") or profile.get("Name")):
            found = f"{machine.name}: no IamInstanceProfile; Ray gives a head full access to EC2 and S3, a worker none"
            findings.append(fail(found, f"{machine.name}.node_config.IamInstanceProfile: {{ Arn: ... }}"))
        elif profile.get("Arn") and not _PROFILE_ARN.fullmatch(profile["Arn"]):
            found = f"{machine.name}: {profile['Arn']} is not the ARN of an instance profile"
            findings.append(fail(found, "arn:aws:iam::ACCOUNT:instance-profile/NAME, not the ARN of a role"))
        elif not machine.is_head and profile in of_head:
            found = f"{machine.name}: has the profile of the head, and may start machines"
            findings.append(warn(found, "a profile with access to the bucket only"))
    return together(findings, "head and workers have instance profiles")


def check_security_groups(machines: Sequence[Machine]) -> Finding:
    """Every machine is in a security group of yours."""
    return _check_ids(machines, "SecurityGroupIds", _GROUP, "Ray would create a group that opens port 22 to the world")


def check_machine_images(machines: Sequence[Machine]) -> Finding:
    """Every machine starts from a machine image of yours."""
    return _check_ids(machines, "ImageId", _AMI, "Ray's default is a withdrawn Ubuntu 18.04")


def _check_ids(machines: Sequence[Machine], key: str, form: re.Pattern[str], reason: str) -> Finding:
    findings = []
    for machine in machines:
        value = machine.node_config.get(key) or []
        values = value if isinstance(value, list) else [value]
        if not values:
            findings.append(fail(f"{machine.name}: no {key}; {reason}", f"set node_config.{key}"))
        elif wrong := [str(each) for each in values if not form.fullmatch(str(each))]:
            found = f"{machine.name}: {', '.join(wrong)} is no ID"
            findings.append(fail(found, f"set node_config.{key} to an ID as AWS shows it"))
    return together(findings, f"every node type has {key}")


def check_start_commands(cluster: Mapping[str, Any]) -> Finding:
    """Ray starts with a token, its dashboard on loopback, and its autoscaler on the head."""
    findings, options = [], " ".join((cluster.get("docker") or {}).get("run_options") or [])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = " ".join(cluster[key])
        if "ray start" not in command:
            findings.append(fail(f"{key}: no `ray start`", "copy the commands of the shipped cluster.yaml"))
            continue
        if _TOKEN_MODE not in command:
            status = warn if _TOKEN_MODE in options else fail
            findings.append(status(f"{key}: no {_TOKEN_MODE}, so Ray may run open", f"{_TOKEN_MODE} ray start ..."))
        host = re.search(r"--dashboard-host[ =]['\"]?([^\s;'\"]+)", command)
        if host and not _is_loopback(host[1]):
            found = f"{key}: the dashboard, whose jobs API runs any code, listens on {host[1]}"
            findings.append(fail(found, "--dashboard-host=127.0.0.1"))
        if key.startswith("head") and "--autoscaling-config" not in command:
            found = f"{key}: no --autoscaling-config, so no worker is ever started"
            findings.append(fail(found, "--autoscaling-config=~/ray_bootstrap_config.yaml"))
    return together(findings, f"ray start with {_TOKEN_MODE}, dashboard on loopback")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(file_mounts: Mapping[str, Any]) -> Finding:
    """The token of the cluster is copied to every machine."""
    sources = [str(source) for target, source in file_mounts.items() if Path(target).name == "auth_token"]
    if not sources:
        found = "file_mounts: no token, so `ray start` fails on every machine"
        return fail(found, "file_mounts: { ~/.ray/auth_token: ~/.ray/auth_token }")
    file = Path(sources[0]).expanduser()
    if not file.is_file():
        fix = "before `ray up`: ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
        return warn(f"file_mounts: {file} does not exist yet", fix)
    return ok(f"file_mounts: {file}")


def check_ssh_key(auth: Mapping[str, Any]) -> Finding:
    """The private key that the file names is on this machine."""
    key = auth.get("ssh_private_key")
    if not key:
        return ok("auth.ssh_private_key is not set: Ray or ssh chooses a key")
    file = Path(str(key)).expanduser()
    if not file.is_file():
        fix = "name your private key, or leave auth.ssh_private_key out"
        return fail(f"auth.ssh_private_key: {file} does not exist", fix)
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        return fail(f"auth.ssh_private_key: {file} has mode {mode:04o}, which ssh refuses", f"chmod 600 {file}")
    return ok(f"auth.ssh_private_key: {file}")
