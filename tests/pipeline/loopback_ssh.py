"""Two machines to `ray up` on: this one twice, over an ssh server of the test, with homes and ports of their own."""

import contextlib
import getpass
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HEAD, WORKER = "127.0.0.1", "127.0.0.2"
RAY = Path(sys.executable).with_name("ray")
START_S = 10
EMPTY = Path("/run/sshd")  # the folder that a server of root locks itself into; its service makes it when it starts

# `ray` on those machines. What a user's cluster takes for granted, whole machines, is bounded here: the ports of the
# start commands become free ones, and ending Ray ends the processes that carry the mark of their machine.
WRAPPER = """#!{python}
import json, os, signal, sys
from pathlib import Path

arguments, given = sys.argv[1:], json.loads(Path({settings!r}).read_text())
if arguments[:1] == ["stop"]:
    above, pid = set(), os.getpid()
    while pid > 1:
        above.add(pid)
        pid = int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
    mark = os.environ["MARK"].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) not in above and mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass
    sys.exit(0)
if arguments[:1] == ["start"]:
    extra = given["head" if "--head" in arguments else "worker"]
    for free, written in given["ports"].items():
        arguments = [argument.replace(":" + written, ":" + free) for argument in arguments]
    names = [option.partition("=")[0] for option in extra]
    arguments = [each for each in arguments if each.partition("=")[0] not in names] + extra
os.execv({ray!r}, [{ray!r}, *arguments])
"""

# SSH_CONNECTION ends with the address and the port that were asked for.
SESSION = """#!/bin/sh
set -- $SSH_CONNECTION
export HOME={folder}/$3
cd "$HOME"
exec /bin/bash -c "${{SSH_ORIGINAL_COMMAND:-exec /bin/bash --login}}"
"""

# What the machines of a cluster use between them; `ray up` hands on neither its proxy nor, in another home, its key.
SSH = """#!/bin/sh
exec {ssh} -o "ProxyCommand={python} {folder}/proxy.py %h" -i {folder}/key "$@"
"""

PROFILE = """export PATH={folder}/bin:{python_folder}:$PATH MARK={mark}-$(basename $HOME)
export RAY_AUTH_MODE=token RAY_ADDRESS={address}
"""

PROXY = """import os, select, socket, sys
there = socket.create_connection((sys.argv[1], {port}))
while True:
    for ready in select.select([there, 0], [], [])[0]:
        data = there.recv(65536) if ready is there else os.read(0, 65536)
        if not data:
            sys.exit()
        if ready is there:
            while data:
                data = data[os.write(1, data):]
        else:
            there.sendall(data)
"""

SERVER = """ListenAddress {head}:{port}
ListenAddress {worker}:{port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UsePAM no
StrictModes no
ForceCommand {folder}/session
"""


@dataclass(frozen=True)
class Machines:
    """Where the commands of a user run, and the machines that they reach.

    Attributes:
        folder: of all files; removed with the machines.
        environment: of the commands of the user.
        dashboard_port: of the cluster on those machines.
        mark: of all processes of the machines, in their environments.
    """

    folder: Path
    environment: dict[str, str]
    dashboard_port: int
    mark: str

    def ray(self, *arguments: str, limit_s: float = 120) -> str:
        """Runs a command of Ray as the user, and gives what it printed.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(
            [str(RAY), *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def processes(self, *words: str, address: str = "") -> dict[int, str]:
        """The commands of the processes on the machines or on one of them, with one of the words if some are given."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = f"{self.mark}-{address}".encode() in (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if marked and (not words or any(word in command for word in words)):
                    found[int(process.name)] = command
        return found


def missing() -> str | None:
    """Why no ssh server can be had here; None if it can."""
    absent = [name for name in ("ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
    if absent or not server_path():
        return f"not installed here: {', '.join([*absent, *([] if server_path() else ['sshd'])])}"
    return None


def server_path() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def loopback_machines(free_port: Callable[[], int]) -> Iterator[Machines]:
    """Machines whose ssh server, homes and Ray last as long as the block."""
    # Sockets of Ray lie below, and their paths must stay below 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="up-"))
    if made := os.getuid() == 0 and not EMPTY.exists():
        EMPTY.mkdir(mode=0o755)
    try:
        machines = _prepare(folder, free_port)
        server = subprocess.Popen(
            [str(server_path()), "-D", "-e", "-f", str(folder / "sshd_config")],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "sshd.log").open("wb"),
        )
        try:
            _wait_for_server(machines, server)
            yield machines
        finally:
            server.terminate()
            server.wait(10)
            for pid in machines.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            EMPTY.rmdir()


def write_cluster(machines: Machines, source: Path, *, workers: Sequence[str]) -> Path:
    """A cluster file with its places filled in, and the way to a port that is not 22."""
    text = source.read_text(encoding="utf-8")
    for place, value in {
        "[REPLACE_WORKER_IP]": json.dumps(list(workers)),
        "REPLACE_HEAD_IP": HEAD,
        "REPLACE_USER": getpass.getuser(),
        "~/.ssh/REPLACE_KEY": str(machines.folder / "key"),
    }.items():
        assert place in text
        text = text.replace(place, value)
    cluster: dict[str, Any] = yaml.safe_load(text)
    cluster["cluster_name"] = machines.folder.name
    cluster["auth"]["ssh_proxy_command"] = f"{sys.executable} {machines.folder}/proxy.py %h"
    path = machines.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster), encoding="utf-8")
    return path


def _prepare(folder: Path, free_port: Callable[[], int]) -> Machines:
    port, gcs, dashboard = free_port(), free_port(), free_port()
    mark, client = f"machine-{secrets.token_hex(8)}", folder / "client"
    for each in ("bin", HEAD, WORKER, "client/.ray", "head", "worker"):
        (folder / each).mkdir(parents=True)
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    _write(folder / "sshd_config", SERVER.format(head=HEAD, worker=WORKER, port=port, folder=folder))
    _write(folder / "session", SESSION.format(folder=folder), mode=0o700)
    _write(folder / "proxy.py", PROXY.format(port=port))
    settings = {"ports": {str(gcs): "6379"}, **_start_options(folder, gcs, dashboard, free_port)}
    _write(folder / "settings.json", json.dumps(settings))
    wrapper = WRAPPER.format(python=sys.executable, settings=str(folder / "settings.json"), ray=str(RAY))
    _write(folder / "bin/ray", wrapper, mode=0o700)
    ssh = SSH.format(ssh=shutil.which("ssh"), python=sys.executable, folder=folder)
    _write(folder / "bin/ssh", ssh, mode=0o700)
    profile = PROFILE.format(folder=folder, python_folder=RAY.parent, mark=mark, address=f"{HEAD}:{gcs}")
    for each in (HEAD, WORKER):
        _write(folder / each / ".bashrc", profile)
    _write(client / ".ray/auth_token", secrets.token_hex(32), mode=0o600)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")}
    environment = {
        **kept,
        "HOME": str(client),
        "PATH": f"{RAY.parent}{os.pathsep}{kept.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return Machines(folder, environment, dashboard, mark)


def _start_options(folder: Path, gcs: int, dashboard: int, free_port: Callable[[], int]) -> dict[str, list[str]]:
    ports = ["object-manager-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
             "node-manager-port", "runtime-env-agent-port"]  # fmt: skip
    options = {
        name: [f"--{port}={free_port()}" for port in ports]
        + [f"--temp-dir={folder}/{name}", f"--node-ip-address={address}", "--object-store-memory=100000000"]
        for name, address in (("head", HEAD), ("worker", WORKER))
    }
    options["head"] += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    return options


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _wait_for_server(machines: Machines, server: subprocess.Popen[bytes]) -> None:
    command = ["ssh", "-i", str(machines.folder / "key"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
               "-o", "UserKnownHostsFile=/dev/null", "-o",
               f"ProxyCommand={sys.executable} {machines.folder}/proxy.py %h",
               f"{getpass.getuser()}@{HEAD}", "true"]  # fmt: skip
    deadline = time.monotonic() + START_S
    while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        log = (machines.folder / "sshd.log").read_text()
        assert server.poll() is None and time.monotonic() < deadline, done.stderr + log  # noqa: PT018
        time.sleep(0.2)
