"""Offline checks of a cluster file, which find mistakes before `ray up` starts any machines."""

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
from distilray.operations.access import GENERATE_COMMAND, is_loopback
from distilray.operations.doctor.check import Check, Finding, combine, fail, import_failure, ok, warn

SHARED_FOLDER = "/mnt/distilray"  # the `card` recipes write to it
_PLACEHOLDER = re.compile(r"REPLACE\w*")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_EXAMPLE_HOST = re.compile(r"^[^/]*\bexample\.(com|org|net)(:\d+)?/")
_AMI, _GROUP = re.compile(r"ami-\w+"), re.compile(r"sg-\w+")  # these match placeholders too, which another check finds
_PROFILE_ARN = re.compile(r"arn:aws[\w-]*:iam::\w+:instance-profile/\S+")
_GPU_OPTION = re.compile(r"--gpus\b|--runtime[ =]nvidia\b|nvidia\.com/gpu")
_MOUNT_COMMAND = r"(\bmount(?!point)|s3fs|fuse)[^;&|]*{}\b"
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
        raise InputError(
            f"--cluster {file}: {error.strerror or error}; give a cluster file, e.g. cluster.yaml"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"--cluster {file}: not YAML ({str(error)[:_SHOWN_CHARACTERS]}); correct the file") from None
    if not isinstance(content, dict):
        raise InputError(f"--cluster {file}: no 'key: value' lines; give a cluster file, e.g. cluster.yaml")
    return content


def apply_ray_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster file with Ray's defaults filled in. Raises `InputError` if Ray rejects it."""
    from ray.autoscaler._private import util

    logging.getLogger(util.__name__).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cluster: dict[str, Any] = util.prepare_config(copy.deepcopy(dict(content)))
            util.validate_config(cluster)
    except Exception as error:  # Ray raises its own exceptions and those of jsonschema and Python
        path = "".join(f"{key}: " for key in getattr(error, "absolute_path", ()))
        reason = str(getattr(error, "message", "") or error or type(error).__name__)[:_SHOWN_CHARACTERS]
        raise InputError(f"Ray rejects the file: {path}{reason}; correct it") from None
    return cluster


@dataclass(frozen=True)
class NodeType:
    """Node type of a cluster file. The head uses the settings of the cluster, which a worker type can override."""

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
        """True if Ray registers GPUs. If `resources` is not set, Ray derives them from the instance type."""
        instance_type = str(self.node_config.get("InstanceType", ""))
        return bool(self.resources.get("GPU") if self.resources else _GPU_INSTANCE.match(instance_type))

    def host_folder(self, folder: str) -> str | None:
        """Return the host folder that is mounted as `folder` with write access, or None if there is none."""
        mounts = [(source, target) for source, target, mode in _VOLUME.findall(self.run_options) if "ro" not in mode]
        for option in _BIND.findall(self.run_options):
            pairs = dict(part.partition("=")[::2] for part in option.split(","))
            keys = (("source", "src"), ("target", "destination", "dst"))
            source, target = (next((pairs[key] for key in names if key in pairs), "") for names in keys)
            if "readonly" not in pairs and source and target:
                mounts.append((source, target))
        path = Path(folder)
        return next((str(Path(s) / path.relative_to(t)) for s, t in mounts if path.is_relative_to(t)), None)


def node_types(cluster: Mapping[str, Any]) -> Iterator[NodeType]:
    """Yield the node types of a cluster file with Ray's defaults."""
    for name, settings in cluster["available_node_types"].items():
        is_head = name == cluster["head_node_type"]
        role, overrides = ("head", {}) if is_head else ("worker", settings)
        docker = {**(cluster.get("docker") or {}), **(overrides.get("docker") or {})}
        options = [*(docker.get("run_options") or []), *(docker.get(f"{role}_run_options") or [])]
        yield NodeType(
            name,
            is_head,
            settings.get("resources") or {},
            settings.get("node_config") or {},
            docker.get(f"{role}_image") or docker.get("image") or "",
            " ".join(map(str, options)),
            "\n".join(overrides.get("initialization_commands", cluster["initialization_commands"])),
            " ".join(command for command in cluster[f"{role}_start_ray_commands"] if "ray start" in command),
        )


def cluster_file_checks(file: str) -> list[Check]:
    """Return the checks of a cluster file that apply to its provider. Raises `InputError` if it cannot be read."""
    try:
        content = read_cluster_file(file)
    except ImportError as error:
        finding = import_failure(error)
        return [Check("cluster file", lambda: finding)]
    checks = [
        Check("placeholders", lambda: _check_placeholders(content)), Check("schema", lambda: _check_schema(content))
    ]  # fmt: skip
    try:
        cluster = apply_ray_defaults(content)
    except (ImportError, InputError):
        return checks  # the schema check reports the reason
    type_checks = (_DOCKER if cluster.get("docker") else {}) | (_AWS if cluster["provider"]["type"] == "aws" else {})
    types = list(node_types(cluster))
    return [
        *checks,
        *(Check(name, functools.partial(_check_each, types, *check)) for name, check in type_checks.items()),
        Check("start", lambda: _check_start_commands(cluster)),
        Check("token", lambda: _check_token(cluster.get("file_mounts") or {})),
        Check("ssh key", lambda: _check_ssh_key(cluster.get("auth") or {})),
    ]


def _check_schema(content: Mapping[str, Any]) -> Finding:
    apply_ray_defaults(content)
    return ok("Ray accepts the file")


def _check_placeholders(content: Mapping[str, Any]) -> Finding:
    paths: dict[str, list[str]] = {}
    for path, text in _texts(content, ""):
        for marker in dict.fromkeys(_PLACEHOLDER.findall(text)):
            paths.setdefault(marker, []).append(path)
    if paths:
        message = "; ".join(f"{marker} in {', '.join(keys)}" for marker, keys in paths.items())
        return fail(f"placeholders remain: {message}", "replace them as described in the comments of the file")
    return ok("no placeholder remains")


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


NodeTypeCheck = Callable[[NodeType, NodeType], Iterator[Finding]]  # (node type, head) -> findings


def _check_each(types: Sequence[NodeType], check: NodeTypeCheck, ok_message: str) -> Finding:
    head = next(node for node in types if node.is_head)
    findings = (finding for node in types for finding in check(node, head))
    with_gpus = ", ".join(node.name for node in types if node.has_gpus)
    return combine(findings, ok_message.format(with_gpus or "no node type"))


def _image(node: NodeType, _: NodeType) -> Iterator[Finding]:
    if not _DIGEST.search(node.image):
        fix = "write IMAGE@sha256:... (docker buildx imagetools inspect IMAGE shows the digest)"
        yield fail(f"{node.name}: image {node.image or 'missing'} has no digest", fix)
    elif _EXAMPLE_HOST.match(node.image):
        message = f"{node.name}: image {node.image.partition('@')[0]} is in an example registry"
        yield warn(message, "replace it with your registry")


def _shared_folder(node: NodeType, _: NodeType) -> Iterator[Finding]:
    host = node.host_folder(SHARED_FOLDER)
    if host is None:
        message = f"{node.name}: {SHARED_FOLDER} is not mounted into the container"
        yield fail(message, f"docker.run_options: -v {SHARED_FOLDER}:{SHARED_FOLDER}")
    elif not re.search(_MOUNT_COMMAND.format(re.escape(host)), node.initialization):
        owner = "" if node.is_head else f" of {node.name}, which replace those of the cluster"
        message = f"{node.name}: no command mounts the shared file system at {host}"
        yield fail(message, f"mount the file system in initialization_commands{owner}")


def _spill_folder(node: NodeType, _: NodeType) -> Iterator[Finding]:
    for folder in re.findall(r"--object-spilling-directory[ =](/[^\s;]+)", node.start):
        host = node.host_folder(folder)
        if host is None:
            message = f"{node.name}: {folder} is not mounted, so spilled objects would fill the disk of the container"
            yield fail(message, f"docker.run_options: -v {folder}:{folder}")
        elif host not in node.initialization:
            message = f"{node.name}: Docker would create {host} as root, and Ray could not write to it"
            yield fail(message, "create it in initialization_commands and chown it to the user of the image")


def _gpus(node: NodeType, _: NodeType) -> Iterator[Finding]:
    if node.has_gpus and not _GPU_OPTION.search(node.run_options):
        message = f"{node.name}: Ray registers GPUs, but its container sees none without --gpus all"
        yield fail(message, "add --gpus all to its docker.worker_run_options")


def _profile(node: NodeType, head: NodeType) -> Iterator[Finding]:
    profile = node.node_config.get("IamInstanceProfile")
    if not isinstance(profile, dict) or not (profile.get("Arn") or profile.get("Name")):
        message = f"{node.name}: no IamInstanceProfile; Ray would give a head full access to EC2 and S3"
        yield fail(message, f"set {node.name}.node_config.IamInstanceProfile: {{ Arn: ... }}")
    elif profile.get("Arn") and not _PROFILE_ARN.fullmatch(profile["Arn"]):
        message = f"{node.name}: {profile['Arn']} is not the ARN of an instance profile"
        yield fail(message, "write arn:aws:iam::ACCOUNT:instance-profile/NAME, not the ARN of a role")
    elif not node.is_head and profile == head.node_config.get("IamInstanceProfile"):
        yield warn(f"{node.name}: can start machines, as it has the head's profile", "allow access to the bucket only")


def _ids(key: str, form: re.Pattern[str], reason: str) -> tuple[NodeTypeCheck, str]:
    def check(node: NodeType, _: NodeType) -> Iterator[Finding]:
        value = node.node_config.get(key) or []
        values = value if isinstance(value, list) else [value]
        if not values:
            yield fail(f"{node.name}: no {key}; {reason}", f"set node_config.{key}")
        elif invalid := [str(resource_id) for resource_id in values if not form.fullmatch(str(resource_id))]:
            yield fail(f"{node.name}: {', '.join(invalid)} is not an ID", f"set node_config.{key} to an ID from AWS")

    return check, f"every node type has {key}"


_DOCKER: dict[str, tuple[NodeTypeCheck, str]] = {
    "images": (_image, "all images have a digest"),
    "shared folder": (_shared_folder, f"{SHARED_FOLDER} is mounted on all machines and into all containers"),
    "spill folder": (_spill_folder, "Ray spills to folders of the machines"),
    "gpus": (_gpus, "the containers of {} get GPUs"),
}
_AWS: dict[str, tuple[NodeTypeCheck, str]] = {
    "machine image": _ids("ImageId", _AMI, "Ray's default is a withdrawn Ubuntu 18.04"),
    "profiles": (_profile, "head and workers have instance profiles"),
    "security group": _ids("SecurityGroupIds", _GROUP, "Ray would create a group that opens port 22 to the world"),
}


def _check_start_commands(cluster: Mapping[str, Any]) -> Finding:
    findings, options = [], " ".join(map(str, (cluster.get("docker") or {}).get("run_options") or []))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        command = " ".join(cluster[key])
        if "ray start" not in command:
            findings.append(fail(f"{key}: no `ray start`", "copy the commands of cluster.yaml"))
            continue
        if _TOKEN_MODE not in command:
            status = warn if _TOKEN_MODE in options else fail
            message = f"{key}: no {_TOKEN_MODE}, so Ray may run without a token"
            findings.append(status(message, f"write {_TOKEN_MODE} ray start ..."))
        host = re.search(r"--dashboard-host[ =]['\"]?([^\s;'\"]+)", command)
        if host and not is_loopback(host[1]):
            message = f"{key}: the dashboard, whose jobs API can run any code, listens on {host[1]}"
            findings.append(fail(message, "set --dashboard-host=127.0.0.1"))
        if key.startswith("head") and "--autoscaling-config" not in command:
            message = f"{key}: no --autoscaling-config, so no worker would ever start"
            findings.append(fail(message, "set --autoscaling-config=~/ray_bootstrap_config.yaml"))
    return combine(findings, f"ray start uses {_TOKEN_MODE}, the dashboard listens on loopback")


def _check_token(file_mounts: Mapping[str, Any]) -> Finding:
    sources = [str(source) for target, source in file_mounts.items() if Path(target).name == "auth_token"]
    if not sources:
        message = "file_mounts: no token, so `ray start` would fail on every machine"
        return fail(message, "add file_mounts: { ~/.ray/auth_token: ~/.ray/auth_token }")
    file = Path(sources[0]).expanduser()
    if not file.is_file():
        return warn(f"file_mounts: {file} does not exist yet", f"before `ray up`: {GENERATE_COMMAND}")
    return ok(f"file_mounts: {file}")


def _check_ssh_key(auth: Mapping[str, Any]) -> Finding:
    key = auth.get("ssh_private_key")
    if not key:
        return ok("auth.ssh_private_key is not set: Ray or ssh chooses a key")
    file = Path(str(key)).expanduser()
    if not file.is_file():
        fix = "give the path of your private key, or remove auth.ssh_private_key"
        return fail(f"auth.ssh_private_key: {file} does not exist", fix)
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        return fail(f"auth.ssh_private_key: {file} has mode {mode:04o}, which ssh refuses", f"chmod 600 {file}")
    return ok(f"auth.ssh_private_key: {file}")
