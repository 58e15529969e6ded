"""Two machines for `ray up`: this machine twice, over an ssh server of the test, with separate homes and ports."""

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
CHROOT = Path("/run/sshd")  # empty folder that sshd needs if it runs as root

# Wrapper for `ray` on the machines, which must not affect anything else on this machine: it replaces the ports of start
# commands by free ones, and its `stop` only kills processes that have the tag of their machine in the environment.
WRAPPER = """#!{python}
import json, os, signal, sys
from pathlib import Path

arguments, settings = sys.argv[1:], json.loads(Path({settings!r}).read_text())
if arguments[:1] == ["stop"]:
    ancestors, pid = set(), os.getpid()
    while pid > 1:
        ancestors.add(pid)
        pid = int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
    tag = os.environ["MACHINE_TAG"].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) not in ancestors and tag in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass
    sys.exit(0)
if arguments[:1] == ["start"]:
    extra = settings["head" if "--head" in arguments else "worker"]
    for free, written in settings["ports"].items():
        arguments = [argument.replace(":" + written, ":" + free) for argument in arguments]
    names = [option.partition("=")[0] for option in extra]
    arguments = [each for each in arguments if each.partition("=")[0] not in names] + extra
os.execv({ray!r}, [{ray!r}, *arguments])
"""

# SSH_CONNECTION ends with the requested address and port.
SESSION = """#!/bin/sh
set -- $SSH_CONNECTION
export HOME={folder}/$3
cd "$HOME"
exec /bin/bash -c "${{SSH_ORIGINAL_COMMAND:-exec /bin/bash --login}}"
"""

# `ssh` on the machines; `ray up` does not pass on its proxy command nor, with another home, its key.
SSH = """#!/bin/sh
exec {ssh} -o "ProxyCommand={python} {folder}/proxy.py %h" -i {folder}/key "$@"
"""

PROFILE = """export PATH={folder}/bin:{python_folder}:$PATH MACHINE_TAG={tag}-$(basename $HOME)
export RAY_AUTH_MODE=token RAY_ADDRESS={address}
"""

PROXY = """import os, select, socket, sys
connection = socket.create_connection((sys.argv[1], {port}))
while True:
    for ready in select.select([connection, 0], [], [])[0]:
        data = connection.recv(65536) if ready is connection else os.read(0, 65536)
        if not data:
            sys.exit()
        if ready is connection:
            while data:
                data = data[os.write(1, data):]
        else:
            connection.sendall(data)
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
    """Machines, and the environment for commands of their user.

    Attributes:
        folder: folder of all files, which is removed at the end.
        environment: environment of the user's commands.
        dashboard_port: dashboard port of the cluster.
        tag: value in the environments of all processes of the machines.
    """

    folder: Path
    environment: dict[str, str]
    dashboard_port: int
    tag: str

    def ray(self, *arguments: str, limit_s: float = 120) -> str:
        """Run a command of Ray as the user, and return its output.

        Raises:
            AssertionError: the command failed.
        """
        result = subprocess.run(
            [str(RAY), *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    def processes(self, *words: str, address: str = "") -> dict[int, str]:
        """Return the command lines of the processes on one or all machines, optionally only those with given words."""
        commands = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                has_tag = f"{self.tag}-{address}".encode() in (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if has_tag and (not words or any(word in command for word in words)):
                    commands[int(process.name)] = command
        return commands


def missing() -> str | None:
    """Return the programs that are missing for an ssh server, or None."""
    absent = [name for name in ("ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
    if absent or not server_path():
        return f"not installed here: {', '.join([*absent, *([] if server_path() else ['sshd'])])}"
    return None


def server_path() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def loopback_machines(free_port: Callable[[], int]) -> Iterator[Machines]:
    """Provide machines until the block ends."""
    # The folder contains Ray's sockets, whose paths are limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="up-"))
    if created := os.getuid() == 0 and not CHROOT.exists():
        CHROOT.mkdir(mode=0o755)
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
        if created:
            CHROOT.rmdir()


def write_cluster(machines: Machines, source: Path, *, workers: Sequence[str]) -> Path:
    """Write a cluster file with its placeholders filled in and a proxy command for the ssh port."""
    text = source.read_text(encoding="utf-8")
    for placeholder, value in {
        "[REPLACE_WORKER_IP]": json.dumps(list(workers)),
        "REPLACE_HEAD_IP": HEAD,
        "REPLACE_USER": getpass.getuser(),
        "~/.ssh/REPLACE_KEY": str(machines.folder / "key"),
    }.items():
        assert placeholder in text
        text = text.replace(placeholder, value)
    cluster: dict[str, Any] = yaml.safe_load(text)
    cluster["cluster_name"] = machines.folder.name
    cluster["auth"]["ssh_proxy_command"] = f"{sys.executable} {machines.folder}/proxy.py %h"
    path = machines.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster), encoding="utf-8")
    return path


def _prepare(folder: Path, free_port: Callable[[], int]) -> Machines:
    port, gcs, dashboard = free_port(), free_port(), free_port()
    tag, client = f"machine-{secrets.token_hex(8)}", folder / "client"
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
    profile = PROFILE.format(folder=folder, python_folder=RAY.parent, tag=tag, address=f"{HEAD}:{gcs}")
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
    return Machines(folder, environment, dashboard, tag)


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
    while (result := subprocess.run(command, capture_output=True, text=True)).returncode:
        log = (machines.folder / "sshd.log").read_text()
        assert server.poll() is None and time.monotonic() < deadline, result.stderr + log  # noqa: PT018
        time.sleep(0.2)
