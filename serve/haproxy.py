"""HAProxy for a server on this machine: its environment, and cleanup after killed servers."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilray.runtime.environment import temporary_environment
from serve import haproxy_shedding

# Ray Serve reads these variables on import, in the driver and in all processes of the session, which inherit them.
# Variables set by the user take precedence.
ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Default 3600: a client that stops in the middle of a header would keep its connection for an hour.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # Default 30, so that the load balancers of a cluster can remove a replica. Here it would only delay Ctrl-C.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # Default 10: three checks must fail, so the service would be down for half a minute if the proxy dies.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # One thread handles tens of thousands of requests per second; more would take CPU time from the model.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
}
# Ports of HAProxy's metrics and statistics, which it opens on every interface whatever the host of the service, and of
# the Python proxy that responds while there is no replica. Each gets a free port, to allow several servers per machine.
PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
# By default, Ray puts these files into one folder for all users of the machine and makes the admin socket writable for
# everyone. Our folder is private, and its name contains the driver's PID. File names are short because socket paths are
# limited to 107 characters.
_PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
}
_PARENT = "/tmp"  # noqa: S108 - mkdtemp creates a folder with an unpredictable name
_PREFIX = "distilray-"
_OUR_FOLDER = re.compile(rf"({_PARENT}/{_PREFIX}(\d+)-[^/]+)/")
_RAY_EXIT_S = 15.0  # time for the Ray processes of a killed driver to exit
_TERMINATION_S = 3.0  # time for a process to exit after a signal


@dataclass(frozen=True)
class Orphan:
    """HAProxy process of this user whose driver or Ray process has exited.

    Attributes:
        pid: process id.
        folder: folder of the killed server of this project that it belongs to, or None if its owner is unknown.
        has_parent: True if its Ray process is still running, which exits some seconds after the driver.
    """

    pid: int
    folder: str | None
    has_parent: bool


@contextlib.contextmanager
def haproxy_environment(*, shed_above: int | None = None, body_timeout_s: float = 10.0) -> Iterator[None]:
    """Enable HAProxy for the Ray session that starts inside the block; Ray Serve must not be imported before.

    Args:
        shed_above: limit of requests per replica, above which HAProxy rejects requests; None disables it.
        body_timeout_s: time limit for a body to arrive if `shed_above` is set, in seconds.
    """
    prefix = f"{_PREFIX}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=_PARENT, ignore_cleanup_errors=True) as folder:
        ports = {name: str(_free_port()) for name in PORTS if name not in os.environ}
        paths = {name: f"{folder}/{file}" for name, file in _PATHS.items()}
        added = {name: value for name, value in {**ENVIRONMENT, **ports, **paths}.items() if name not in os.environ}
        if shed_above is not None:
            added |= _write_shedding_wrapper(Path(folder), shed_above, body_timeout_s)
        with temporary_environment(added):
            yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _write_shedding_wrapper(folder: Path, shed_above: int, body_timeout_s: float) -> dict[str, str]:
    """Write an executable that starts HAProxy through `haproxy_shedding`, and return its environment."""
    executable = folder / "haproxy"
    command = [sys.executable, str(Path(haproxy_shedding.__file__).absolute())]
    executable.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    executable.chmod(0o700)
    path = "RAY_SERVE_HAPROXY_BINARY_PATH"
    real = {haproxy_shedding.BINARY: os.environ[path]} if os.environ.get(path) else {}
    limits = {haproxy_shedding.LIMIT: shed_above, haproxy_shedding.BODY_TIMEOUT: math.ceil(body_timeout_s)}
    return {path: str(executable), **real, **{name: str(value) for name, value in limits.items()}}


def find_orphans(processes: Path = Path("/proc")) -> list[Orphan]:
    """Return this user's HAProxy processes that have lost their Ray process or their driver."""
    orphans = []
    for process in processes.glob("[0-9]*"):
        try:
            if process.stat().st_uid != os.getuid():
                continue
            command = _command(process)
            if Path(command[0]).name != "haproxy" or "-f" not in command[:-1]:
                continue
            folder = _dead_folder(command[command.index("-f") + 1], processes)
            parent = int(re.findall(r"^PPid:\s*(\d+)", (process / "status").read_text(), re.M)[0])
            has_parent = _is_ray(processes / str(parent))
        except (OSError, IndexError):
            continue  # the process has exited
        if folder is not None or not has_parent:
            orphans.append(Orphan(int(process.name), folder, has_parent))
    return orphans


def stop_orphans() -> list[int]:
    """Stop the HAProxy processes of killed servers of this project, and return their process ids."""
    end = time.monotonic() + _RAY_EXIT_S
    while ours := [orphan for orphan in find_orphans() if orphan.folder is not None]:
        # Wait for their Ray processes to exit, because these would restart HAProxy.
        if time.monotonic() > end or not any(orphan.has_parent for orphan in ours):
            break
        time.sleep(0.1)
    for orphan in ours:
        _stop(orphan.pid)
        shutil.rmtree(str(orphan.folder), ignore_errors=True)
    return [orphan.pid for orphan in ours]


def _command(process: Path) -> list[str]:
    return (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _is_ray(process: Path) -> bool:
    try:
        return _command(process)[0].startswith("ray::")
    except OSError:
        return False


def _dead_folder(config_file: str, processes: Path) -> str | None:
    """Return the folder of a configuration file if it belongs to a server of this project that has exited."""
    match = _OUR_FOLDER.match(config_file)
    return match[1] if match and not (processes / match[2]).exists() else None


def _stop(pid: int) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        end = time.monotonic() + _TERMINATION_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.05)
