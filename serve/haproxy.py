"""HAProxy before the replicas on this machine: its environment, and what a killed server left behind."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distilray.runtime.environment import environment
from serve import haproxy_shedding
from serve.ingress import available_port

# Ray Serve reads these when it is imported, in the driver and in every process of the session, which inherit them. What
# the user has set stays.
ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # 3600 when left out: a client that stops in the middle of a header would hold its connection for an hour.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # 30 when left out: time for load balancers of a cluster to forget a replica. Here it would only delay Ctrl-C.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # 10 when left out, and three checks must fail: half a minute without an answer when the proxy dies.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # One thread carries tens of thousands of requests a second; more would take the cores from the model.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
}
# HAProxy's metrics and its statistics, on every interface whatever the host of the service, and the Python proxy that
# stands by while there is no replica: a free port each, so that servers live beside each other.
PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
# Ray puts these into one folder for all users of the machine, and lets everyone write to the admin socket. Ours is
# private, and names the driver. The names are short because the path of a socket ends after 107 characters.
_PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
}
_PARENT = "/tmp"  # noqa: S108 - mkdtemp makes the folder, with a name that nobody knows before
_PREFIX = "distilray-"
_OURS = re.compile(rf"({_PARENT}/{_PREFIX}(\d+)-[^/]+)/")
# Until the processes of a killed driver have noticed, and until a process that was asked to end has done so.
_RAY_ENDS_S, _PATIENCE_S = 15.0, 3.0


@dataclass(frozen=True)
class Orphan:
    """A HAProxy of this user whose driver or whose Ray process is gone.

    Attributes:
        pid: its process.
        folder: of the killed server of this project that it belonged to; None if it may belong to anyone.
        watched: by a Ray process that has outlived its driver, for some seconds.
    """

    pid: int
    folder: str | None
    watched: bool


@contextlib.contextmanager
def haproxy_environment(*, shed_above: int | None = None, body_timeout_s: float = 10.0) -> Iterator[None]:
    """Turns HAProxy on for the Ray session that starts inside the block; before anything imports Ray Serve.

    Args:
        shed_above: requests per replica, beyond which HAProxy refuses more; None for no limit.
        body_timeout_s: time for a body to arrive where HAProxy sheds, in seconds.
    """
    prefix = f"{_PREFIX}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=_PARENT, ignore_cleanup_errors=True) as folder:
        ports = {name: str(available_port("0.0.0.0", 0)) for name in PORTS if name not in os.environ}  # noqa: S104
        paths = {name: f"{folder}/{file}" for name, file in _PATHS.items()}
        added = {each: value for each, value in {**ENVIRONMENT, **ports, **paths}.items() if each not in os.environ}
        if shed_above is not None:
            added |= _shedding(Path(folder), shed_above, body_timeout_s)
        with environment(added):
            yield


def _shedding(folder: Path, shed_above: int, body_timeout_s: float) -> dict[str, str]:
    """Write the executable that starts HAProxy through `haproxy_shedding`, and return its environment."""
    executable = folder / "haproxy"
    command = [sys.executable, str(Path(haproxy_shedding.__file__).absolute())]
    executable.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    executable.chmod(0o700)
    path = "RAY_SERVE_HAPROXY_BINARY_PATH"
    real = {haproxy_shedding.BINARY: os.environ[path]} if os.environ.get(path) else {}
    limits = {haproxy_shedding.LIMIT: shed_above, haproxy_shedding.BODY_TIMEOUT: math.ceil(body_timeout_s)}
    return {path: str(executable), **real, **{name: str(value) for name, value in limits.items()}}


def find_orphans(processes: Path = Path("/proc")) -> list[Orphan]:
    """The HAProxy processes of this user that no Ray process watches, or whose driver, of this project, is gone."""
    found = []
    for process in processes.glob("[0-9]*"):
        try:
            if process.stat().st_uid != os.getuid():
                continue
            command = _command(process)
            if Path(command[0]).name != "haproxy" or "-f" not in command[:-1]:
                continue
            folder = _dead_folder(command[command.index("-f") + 1], processes)
            parent = int(re.findall(r"^PPid:\s*(\d+)", (process / "status").read_text(), re.M)[0])
            watched = _is_ray(processes / str(parent))
        except (OSError, IndexError):
            continue  # ended meanwhile
        if folder is not None or not watched:
            found.append(Orphan(int(process.name), folder, watched))
    return found


def stop_orphans() -> list[int]:
    """Ends the HAProxy processes that killed servers of this project left behind, and says which."""
    end = time.monotonic() + _RAY_ENDS_S
    while ours := [each for each in find_orphans() if each.folder is not None]:
        # Its Ray process would start another one.
        if time.monotonic() > end or not any(each.watched for each in ours):
            break
        time.sleep(0.1)
    for each in ours:
        _end(each.pid)
        shutil.rmtree(str(each.folder), ignore_errors=True)
    return [each.pid for each in ours]


def _command(process: Path) -> list[str]:
    return (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _is_ray(process: Path) -> bool:
    try:
        return _command(process)[0].startswith("ray::")
    except OSError:
        return False


def _dead_folder(config_file: str, processes: Path) -> str | None:
    """The folder of a server of ours whose driver no longer lives."""
    match = _OURS.match(config_file)
    return match[1] if match and not (processes / match[2]).exists() else None


def _end(pid: int) -> None:
    for each in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, each)
        end = time.monotonic() + _PATIENCE_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.05)
