"""Kills a replica of a running server and tells when it was replaced; a fresh process that joins its Ray session.

PYTHONPATH=platform:. python -m benchmarks.serving_load.kill_replica SERVER_PID REPLICAS --at EPOCH_S

The environment holds the token of that session. Only a process below SERVER_PID is ever killed.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve

from benchmarks.serving_load.processes import is_running, process_tree
from benchmarks.serving_load.servers import Server

_PATIENCE_S = 120.0
_GCS_ADDRESS = re.compile(rb"--gcs-address=([\w.:\[\]]+)")


def start_killer(server: Server, replicas: int, *, at: float) -> subprocess.Popen[str]:
    """A process that kills one of the replicas at a time of the system clock, and prints a JSON when all are back."""
    module = "benchmarks.serving_load.kill_replica"
    command = [sys.executable, "-m", module, str(server.pid), str(replicas), "--at", str(at)]
    return subprocess.Popen(command, env=dict(server.environment), stdout=subprocess.PIPE, text=True)


def read_killer(killer: subprocess.Popen[str]) -> dict[str, Any]:
    """What it told, once it has ended."""
    output, _ = killer.communicate()
    if killer.returncode:
        raise SystemExit(f"the process that kills a replica ended with {killer.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def gcs_address(server_pid: int) -> str:
    """Where the Ray session of a server is joined."""
    for process in process_tree(server_pid):
        if found := _GCS_ADDRESS.search(Path(f"/proc/{process.pid}/cmdline").read_bytes()):
            return found[1].decode()
    raise SystemExit(f"no Ray session below process {server_pid}")


def replica_pids(server_pid: int) -> set[int]:
    """The processes of the replicas."""
    return {process.pid for process in process_tree(server_pid) if process.kind == "replica"}


def running_replicas() -> int:
    """Replicas that Serve sends requests to, as it knows."""
    states = [
        deployment.replica_states
        for application in ray_serve.status().applications.values()
        for deployment in application.deployments.values()
    ]
    return sum(each.get("RUNNING", 0) for each in states)


def kill_one(server_pid: int, replicas: int, at: float) -> dict[str, Any]:
    """Kills, and waits until Serve has noticed and has as many as before."""
    before = replica_pids(server_pid)
    victim = min(before)
    running_replicas()  # the first call takes longer
    time.sleep(max(0.0, at - time.time()))
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    # Its sockets live until the kernel has taken its memory down, which takes some 100 ms.
    ended = _when(lambda: not is_running(victim), poll_s=0.001)
    noticed = _when(lambda: running_replicas() < replicas)
    back = _when(lambda: running_replicas() >= replicas)
    new = sorted(replica_pids(server_pid) - before)
    return {
        "victim": victim,
        "replicas": sorted(before),
        "new": new,
        "killed_at": killed,
        "ended_at": ended,
        "noticed_s": round(noticed - killed, 2),
        "replaced_s": round(back - killed, 2),
    }


def _when(holds: Callable[[], bool], *, poll_s: float = 0.1) -> float:
    end = time.time() + _PATIENCE_S
    while not holds():
        if time.time() > end:
            raise SystemExit(f"the replica was not replaced within {_PATIENCE_S:g} s")
        time.sleep(poll_s)
    return time.time()


def main() -> None:
    """Joins, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server_pid", type=int)
    parser.add_argument("replicas", type=int)
    parser.add_argument("--at", type=float, required=True, help="seconds since the epoch")
    given = parser.parse_args()
    ray.init(gcs_address(given.server_pid), log_to_driver=False, logging_level="ERROR")
    print(json.dumps(kill_one(given.server_pid, given.replicas, given.at)), flush=True)


if __name__ == "__main__":
    main()
