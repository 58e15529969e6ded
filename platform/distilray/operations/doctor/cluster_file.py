"""Offline checks of a filled-in cluster file, before `ray up` starts machines that cannot work."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilray.config.paths import expand_home
from distilray.errors import InputError
from distilray.operations.access import is_loopback
from distilray.operations.doctor.check import Finding, Row, fail, not_checked, ok, together, warn

SHARED_FOLDER = "/mnt/distilray"  # that the recipes for a cluster write to
_PLACEHOLDER = re.compile(r"REPLACE\w*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_EXAMPLE_HOST = re.compile(r"^[^/]*\bexample\.(com|org|net)(:\d+)?/")
_AMI, _GROUP = re.compile(r"ami-\w+"), re.compile(r"sg-\w+")  # placeholders too, which have a check of their own
_PROFILE_ARN = re.compile(r"arn:aws[\w-]*:iam::\w+:instance-profile/\S+")
_GPU_OPTION = re.compile(r"--gpus\b|--runtime[ =]nvidia\b|nvidia\.com/gpu")
_MOUNTS = r"(\bmount(?!point)|s3fs|fuse)[^;&|]*{}\b"  # a command that mounts something there
_TOKEN_MODE = "RAY_AUTH_MODE=token"  # noqa: S105 - the mode, not a token
_VOLUME = re.compile(r"(?:-v|--volume)[ =]['\"]?(/[^:\s]*):(/[^:\s'\"]*)(:\S*)?")
_BIND = re.compile(r"--mount[ =](\S+)")
_GPU_INSTANCE = re.compile(r"[gp]\d")
_SHOWN_CHARACTERS = 300


def read_cluster_file(file: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(expand_home(file)).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--cluster {file}: {error.strerror or error}; name a cluster file, as cluster.yaml") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--cluster {file}: not YAML ({str(error)[:_SHOWN_CHARACTERS]}); correct the file") from None
    if not isinstance(content, dict):
        raise InputError(f"--cluster {file}: no 'key: value' lines; name a cluster file, as cluster.yaml")
    return content


def with_defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster with Ray's defaults; raise `InputError` if Ray refuses it."""
    from ray.autoscaler._private import util

    logging.getLogger(util.__name__).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cluster: dict[str, Any] = util.prepare_config(copy.deepcopy(dict(written)))
            util.validate_config(cluster)
    except Exception as error:  # Ray raises its own, those of jsonschema and those of Python
        where = "".join(f"{key}: " for key in getattr(error, "absolute_path", ()))
        reason = str(getattr(error, "message", "") or error or type(error).__name__)[:_SHOWN_CHARACTERS]
        raise InputError(f"Ray refuses the file: {where}{reason}; correct it") from None
    return cluster


@dataclass(frozen=True)
class Machine:
    """A node type. The head has the keys of the whole cluster, which a worker's own keys replace, list by list."""

    name: str
    is_head: bool
    resources: Mapping[str, float]
    node_config: Mapping[str, Any]
    image: str
    run_options: str
    initialization: str
    start: str

    @property
    def has_gpus(self) -> bool:
        """Whether Ray registers GPUs for it; without `resources`, those of the instance type."""
        of_type = not self.resources and _GPU_INSTANCE.match(str(self.node_config.get("InstanceType", "")))
        return bool(self.resources.get("GPU") or of_type)

    def host_folder(self, folder: str) -> str | None:
        """Return the host's folder that is mounted as `folder` for writing; None if there is none."""
        mounts = [(source, target) for source, target, mode in _VOLUME.findall(self.run_options) if "ro" not in mode]
        for option in _BIND.findall(self.run_options):
            pairs = dict(part.partition("=")[::2] for part in option.split(","))
            keys = (("source", "src"), ("target", "destination", "dst"))
            source, target = (next((pairs[key] for key in names if key in pairs), "") for names in keys)
            if "readonly" not in pairs and source and target:
                mounts.append((source, target))
        for source, target in mounts:
            if Path(folder).is_relative_to(target):
                return str(Path(source) / Path(folder).relative_to(target))
        return None


def machines_of(cluster: Mapping[str, Any]) -> Iterator[Machine]:
    """Yield the node types of a cluster with Ray's defaults."""
    for name, node_type in cluster["available_node_types"].items():
        is_head = name == cluster["head_node_type"]
        role, own = ("head", {}) if is_head else ("worker", node_type)
        docker = {**(cluster.get("docker") or {}), **(own.get("docker") or {})}
        options = [*(docker.get("run_options") or []), *(docker.get(f"{role}_run_options") or [])]
        yield Machine(
            name,
            is_head,
            node_type.get("resources") or {},
            node_type.get("node_config") or {},
            docker.get(f"{role}_image") or docker.get("image") or "",
            " ".join(map(str, options)),
            "\n".join(own.get("initialization_commands", cluster["initialization_commands"])),
            " ".join(command for command in cluster[f"{role}_start_ray_commands"] if "ray start" in command),
        )


def cluster_file_rows(file: str) -> list[Row]:
    """Return the checks of a cluster file that apply to its provider; raise `InputError` if it cannot be read."""
    try:
        written = read_cluster_file(file)
    except ImportError as error:
        finding = not_checked(error)
        return [Row("cluster file", lambda: finding)]
    rows = [Row("placeholders", lambda: _check_placeholders(written)), Row("schema", lambda: _check_schema(written))]
    try:
        cluster = with_defaults(written)
    except (ImportError, InputError):
        return rows  # the check of the schema says why
    checks = (_DOCKER if cluster.get("docker") else {}) | (_AWS if cluster["provider"]["type"] == "aws" else {})
    machines = list(machines_of(cluster))
    return [
        *rows,
        *(Row(name, functools.partial(_check_each, machines, *check)) for name, check in checks.items()),
        Row("start", lambda: _check_start_commands(cluster)),
        Row("token", lambda: _check_token(cluster.get("file_mounts") or {})),
        Row("ssh key", lambda: _check_ssh_key(cluster.get("auth") or {})),
    ]


def _check_schema(written: Mapping[str, Any]) -> Finding:
    with_defaults(written)
    return ok("Ray accepts the file")


def _check_placeholders(written: Mapping[str, Any]) -> Finding:
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


MachineCheck = Callable[[Machine, Machine], Iterator[Finding]]  # of a machine and the head


def _check_each(machines: Sequence[Machine], check: MachineCheck, good: str) -> Finding:
    head, gpus = next(each for each in machines if each.is_head), [each.name for each in machines if each.has_gpus]
    findings = (finding for machine in machines for finding in check(machine, head))
    return together(findings, good.format(", ".join(gpus) or "no node type"))


def _image(machine: Machine, _: Machine) -> Iterator[Finding]:
    if not _DIGEST.search(machine.image):
        fix = "name it as IMAGE@sha256:... (docker buildx imagetools inspect IMAGE shows the digest)"
        yield fail(f"{machine.name}: image {machine.image or 'missing'} has no digest", fix)
    elif _EXAMPLE_HOST.match(machine.image):
        found = f"{machine.name}: image {machine.image.partition('@')[0]} is in a registry that does not exist"
        yield warn(found, "name your registry")


def _shared_folder(machine: Machine, _: Machine) -> Iterator[Finding]:
    host = machine.host_folder(SHARED_FOLDER)
    if host is None:
        fix = f"docker.run_options: -v {SHARED_FOLDER}:{SHARED_FOLDER}"
        yield fail(f"{machine.name}: {SHARED_FOLDER} is not mounted into its container", fix)
    elif not re.search(_MOUNTS.format(re.escape(host)), machine.initialization):
        own = "" if machine.is_head else f" of {machine.name}, which replace the cluster's"
        found = f"{machine.name}: no command mounts the shared file system at {host}"
        yield fail(found, f"mount the file system in initialization_commands{own}")


def _spill_folder(machine: Machine, _: Machine) -> Iterator[Finding]:
    for folder in re.findall(r"--object-spilling-directory[ =](/[^\s;]+)", machine.start):
        host = machine.host_folder(folder)
        if host is None:
            found = f"{machine.name}: {folder} is not mounted, so spilled objects fill the disk of the container"
            yield fail(found, f"docker.run_options: -v {folder}:{folder}")
        elif host not in machine.initialization:
            found = f"{machine.name}: Docker creates {host} as root, and Ray cannot write to it"
            yield fail(found, "create it in initialization_commands and chown it to the user of the image")


def _gpus(machine: Machine, _: Machine) -> Iterator[Finding]:
    if machine.has_gpus and not _GPU_OPTION.search(machine.run_options):
        found = f"{machine.name}: Ray registers GPUs, but the container gets them only if Docker's default is NVIDIA"
        yield fail(found, "add --gpus all to its docker.worker_run_options")


def _profile(machine: Machine, head: Machine) -> Iterator[Finding]:
    profile = machine.node_config.get("IamInstanceProfile")
    if not isinstance(profile, dict) or not (profile.get("Arn") or profile.get("Name")):
        found = f"{machine.name}: no IamInstanceProfile; Ray gives a head full access to EC2 and S3, a worker none"
        yield fail(found, f"{machine.name}.node_config.IamInstanceProfile: {{ Arn: ... }}")
    elif profile.get("Arn") and not _PROFILE_ARN.fullmatch(profile["Arn"]):
        found = f"{machine.name}: {profile['Arn']} is not the ARN of an instance profile"
        yield fail(found, "arn:aws:iam::ACCOUNT:instance-profile/NAME, not the ARN of a role")
    elif not machine.is_head and profile == head.node_config.get("IamInstanceProfile"):
        found = f"{machine.name}: has the profile of the head, and may start machines"
        yield warn(found, "a profile with access to the bucket only")


def _ids(key: str, form: re.Pattern[str], reason: str) -> tuple[MachineCheck, str]:
    def check(machine: Machine, _: Machine) -> Iterator[Finding]:
        value = machine.node_config.get(key) or []
        values = value if isinstance(value, list) else [value]
        if not values:
            yield fail(f"{machine.name}: no {key}; {reason}", f"set node_config.{key}")
        elif wrong := [str(each) for each in values if not form.fullmatch(str(each))]:
            found = f"{machine.name}: {', '.join(wrong)} is no ID"
            yield fail(found, f"set node_config.{key} to an ID as AWS shows it")

    return check, f"every node type has {key}"


_DOCKER: dict[str, tuple[MachineCheck, str]] = {
    "images": (_image, "all images are named by digest"),
    "shared folder": (_shared_folder, f"{SHARED_FOLDER} is mounted on all machines and into all containers"),
    "spill folder": (_spill_folder, "Ray spills to folders of the machines"),
    "gpus": (_gpus, "GPUs are passed to {}"),
}
_AWS: dict[str, tuple[MachineCheck, str]] = {
    "machine image": _ids("ImageId", _AMI, "Ray's default is a withdrawn Ubuntu 18.04"),
    "profiles": (_profile, "head and workers have instance profiles"),
    "security group": _ids("SecurityGroupIds", _GROUP, "Ray would create a group that opens port 22 to the world"),
}


def _check_start_commands(cluster: Mapping[str, Any]) -> Finding:
    findings, options = [], " ".join(map(str, (cluster.get("docker") or {}).get("run_options") or []))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = " ".join(cluster[key])
        if "ray start" not in command:
            findings.append(fail(f"{key}: no `ray start`", "copy the commands of the shipped cluster.yaml"))
            continue
        if _TOKEN_MODE not in command:
            status = warn if _TOKEN_MODE in options else fail
            findings.append(status(f"{key}: no {_TOKEN_MODE}, so Ray may run open", f"{_TOKEN_MODE} ray start ..."))
        host = re.search(r"--dashboard-host[ =]['\"]?([^\s;'\"]+)", command)
        if host and not is_loopback(host[1]):
            found = f"{key}: the dashboard, whose jobs API runs any code, listens on {host[1]}"
            findings.append(fail(found, "--dashboard-host=127.0.0.1"))
        if key.startswith("head") and "--autoscaling-config" not in command:
            found = f"{key}: no --autoscaling-config, so no worker is ever started"
            findings.append(fail(found, "--autoscaling-config=~/ray_bootstrap_config.yaml"))
    return together(findings, f"ray start with {_TOKEN_MODE}, dashboard on loopback")


def _check_token(file_mounts: Mapping[str, Any]) -> Finding:
    sources = [str(source) for target, source in file_mounts.items() if Path(target).name == "auth_token"]
    if not sources:
        found = "file_mounts: no token, so `ray start` fails on every machine"
        return fail(found, "file_mounts: { ~/.ray/auth_token: ~/.ray/auth_token }")
    file = Path(sources[0]).expanduser()
    if not file.is_file():
        fix = "before `ray up`: ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
        return warn(f"file_mounts: {file} does not exist yet", fix)
    return ok(f"file_mounts: {file}")


def _check_ssh_key(auth: Mapping[str, Any]) -> Finding:
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
