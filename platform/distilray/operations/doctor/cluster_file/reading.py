"""Cluster files as `ray up` and its autoscaler read them."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilray.config.paths import expand_home
from distilray.errors import InputError

_VOLUME = re.compile(r"(?:-v|--volume)[ =]['\"]?(/[^:\s]*):(/[^:\s'\"]*)(:\S*)?")
_BIND = re.compile(r"--mount[ =](\S+)")
_GPU_INSTANCE = re.compile(r"[gp]\d")
_SHOWN_CHARACTERS = 300


def read_cluster_file(file: str) -> dict[str, Any]:
    """The mapping in a cluster file.

    Raises:
        InputError: the file is missing, is not YAML or holds no mapping.
    """
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
    """The cluster with Ray's defaults.

    Raises:
        InputError: Ray refuses it.
    """
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
    """A node type as `ray up` and the autoscaler use it.

    Ray starts the head with the keys of the whole cluster. A worker's own `docker` keys and `initialization_commands`
    replace those of the cluster, list by list.
    """

    name: str
    is_head: bool
    resources: Mapping[str, float]
    node_config: Mapping[str, Any]
    image: str
    run_options: str
    initialization: Sequence[str]
    start: Sequence[str]

    @property
    def has_gpus(self) -> bool:
        """Return whether Ray registers GPUs for it; without `resources`, those of the instance type."""
        of_type = not self.resources and _GPU_INSTANCE.match(str(self.node_config.get("InstanceType", "")))
        return bool(self.resources.get("GPU") or of_type)

    def host_folder(self, folder: str) -> str | None:
        """The host's folder that is mounted as `folder` for writing; None if there is none."""
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
    """One machine for each node type.

    Args:
        cluster: see `with_defaults`.
    """
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
            " ".join(options),
            own.get("initialization_commands", cluster["initialization_commands"]),
            [command for command in cluster[f"{role}_start_ray_commands"] if "ray start" in command],
        )
