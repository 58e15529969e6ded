"""Variables of the environment that change how a job runs, and proxies that a killed server has left behind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from distilray.operations.doctor.check import Finding, ok, warn

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the first that is set decides, as in the hub's client
_TRUE = frozenset({"1", "on", "yes", "true"})
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost")
_THREADS = "OMP_NUM_THREADS"
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in the driver of a submitted job, whose threads Ray has set itself


class Orphan(Protocol):
    """A HAProxy without its server; `folder` is of a server of this project, None if it may be anyone's."""

    @property
    def pid(self) -> int: ...
    @property
    def folder(self) -> str | None: ...


def check_path(environment: Mapping[str, str], here: Path, source_root: Path) -> Finding:
    """Whoever starts Python here finds the package.

    Args:
        environment: of this process.
        here: the working directory, which relative entries are seen from.
        source_root: folder that holds the package of this process.
    """
    entries = [here / entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if any(entry.resolve() == source_root.resolve() for entry in entries):
        return ok(f"PYTHONPATH has {source_root}")
    if source_root.name != "platform":
        return ok(f"distilray is installed in {source_root}")
    return warn(f"PYTHONPATH lacks {source_root}", "export PYTHONPATH=platform")


def offline_by(environment: Mapping[str, str]) -> str | None:
    """The variable that forbids to ask the hub, None where it may be asked."""
    name = next((name for name in _OFFLINE if environment.get(name)), "")
    return name if environment.get(name, "").lower() in _TRUE else None


def check_hub(environment: Mapping[str, str]) -> Finding:
    """Whether models may be fetched from the hub."""
    if told := offline_by(environment):
        return ok(f"{told}: models come from folders and the cache of this machine")
    return ok("the hub may be asked for models that a recipe names with hub:")


def check_proxies(environment: Mapping[str, str]) -> Finding:
    """What is asked of this machine itself goes through no proxy. Values may hold passwords, and are not shown."""
    lower = {name.lower(): value for name, value in environment.items()}
    given = [name for name in _PROXIES if lower.get(name)]
    direct = [entry.strip() for entry in lower.get("no_proxy", "").split(",")]
    if not given:
        return ok("no proxy for HTTP")
    if "*" in direct or all(host in direct for host in _LOOPBACK):
        return ok(f"{', '.join(given)} set, not for this machine itself")
    told = f"{', '.join(given)} set, also for this machine: `ray job submit` and curl would ask the proxy"
    return warn(told, f"export no_proxy={','.join(_LOOPBACK)}")


def check_threads(environment: Mapping[str, str], cores: int) -> Finding:
    """Every worker gets as many threads as CPUs."""
    given = environment.get(_THREADS)
    if not given or _SUBMITTED in environment:
        return ok(f"{_THREADS} not set by you: Ray gives each worker as many threads as CPUs")
    return warn(f"{_THREADS}={given} for every worker, whatever its CPUs (of {cores})", f"unset {_THREADS}")


def check_orphans(orphans: Sequence[Orphan]) -> Finding:
    """No HAProxy holds the ports of a server that is gone."""
    if not orphans:
        return ok("no HAProxy without its server")
    told = ", ".join(f"{each.pid}{' of this project' if each.folder else ''}" for each in orphans)
    pids = " ".join(str(each.pid) for each in orphans)
    return warn(f"HAProxy without its server, which may hold a port: process {told}", f"kill {pids}")
